//! Names of definitions, instances and partitions, parsed once at the edge.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hash::StableHash;
use crate::limits;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The namespace is not an RFC 1123 label.
    #[error(
        "invalid namespace `{0}`: use 1 to 63 of a-z, 0-9 and -, starting and ending with a letter or digit"
    )]
    Namespace(String),
    /// The instance id has a wrong length or a character outside the allowed set.
    #[error("invalid instance id `{0}`: use 1 to 128 of A-Z, a-z, 0-9, `.`, `_`, `:`, `~` and `-`")]
    Instance(String),
    /// The text is not `namespace/id`.
    #[error("invalid instance key `{0}`: expected `namespace/id`")]
    Key(String),
    /// The text is not `namespace/name@version`.
    #[error("invalid definition reference `{0}`: expected `namespace/name@version`")]
    Definition(String),
}

/// True for an RFC 1123 label: what the DSL allows as namespace and name.
pub fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&bytes.len())
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|b| edge(b) || *b == b'-')
}

/// One partition: an independent log, checkpoint and owner. `0 .. partition count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub u16);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The partition that owns an instance: a stable hash of namespace and id modulo the partition count,
/// which is fixed when a cluster is created (ARCHITECTURE section 6).
#[expect(clippy::cast_possible_truncation, reason = "the remainder is below a u16")]
pub fn partition_of(key: &InstanceKey, partitions: u16) -> PartitionId {
    let hash = StableHash::new().part(key.namespace()).part(key.id()).finish();
    PartitionId((hash % u64::from(partitions.max(1))) as u16)
}

/// `namespace/id` of one run. Ids are unique per namespace. Cheap to hash and to print: held as one text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceKey {
    text: Box<str>,
    slash: u8,
}

impl InstanceKey {
    /// Checks both parts.
    ///
    /// # Errors
    /// [`IdError`] with the offending part.
    #[expect(clippy::cast_possible_truncation, reason = "a label has at most 63 bytes")]
    pub fn new(namespace: &str, id: &str) -> Result<Self, IdError> {
        if !is_label(namespace) {
            return Err(IdError::Namespace(namespace.into()));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'~' | b'-');
        if id.is_empty() || id.len() > limits::INSTANCE_ID_BYTES_MAX || !id.bytes().all(allowed) {
            return Err(IdError::Instance(id.into()));
        }
        Ok(Self {
            text: format!("{namespace}/{id}").into(),
            slash: namespace.len() as u8,
        })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.text[..usize::from(self.slash)]
    }

    /// The id within the namespace.
    pub fn id(&self) -> &str {
        &self.text[usize::from(self.slash) + 1..]
    }

    /// `namespace/id`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for InstanceKey {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let (namespace, id) = text.split_once('/').ok_or_else(|| IdError::Key(text.into()))?;
        Self::new(namespace, id)
    }
}

impl Serialize for InstanceKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for InstanceKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An instance and the partition that owns it, computed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedInstance {
    /// The instance.
    pub key: InstanceKey,
    /// Its partition.
    pub partition: PartitionId,
}

/// An exact, immutable version of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DefinitionRef {
    /// Namespace (RFC 1123 label).
    pub namespace: String,
    /// Name (RFC 1123 label).
    pub name: String,
    /// Semantic version, exact.
    pub version: String,
}

impl fmt::Display for DefinitionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.namespace, self.name, self.version)
    }
}

impl FromStr for DefinitionRef {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError::Definition(text.into());
        let (namespace, rest) = text.split_once('/').ok_or_else(bad)?;
        let (name, version) = rest.split_once('@').ok_or_else(bad)?;
        if !is_label(namespace) || !is_label(name) || version.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            namespace: namespace.into(),
            name: name.into(),
            version: version.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_refuse_bad_parts() {
        let key: InstanceKey = "default/order-1".parse().unwrap();
        assert_eq!(
            (key.namespace(), key.id(), key.as_str()),
            ("default", "order-1", "default/order-1")
        );
        for bad in [
            "order",
            "Default/x",
            "default/",
            "default/a b",
            "default/a/b",
            "-a/b",
            "a-/b",
        ] {
            assert!(bad.parse::<InstanceKey>().is_err(), "{bad}");
        }
        assert!(InstanceKey::new("default", &"x".repeat(129)).is_err());
    }

    #[test]
    fn placement_is_stable() {
        let key = InstanceKey::new("default", "order-1").unwrap();
        let placed: Vec<u16> = [1, 2, 16, 64].iter().map(|p| partition_of(&key, *p).0).collect();
        assert_eq!(placed[0], 0);
        assert_eq!(partition_of(&key, 64).0 % 2, placed[1]);
    }

    #[test]
    fn definition_references_round_trip() {
        let text = "default/order@1.0.0";
        assert_eq!(text.parse::<DefinitionRef>().unwrap().to_string(), text);
        assert!("order@1.0.0".parse::<DefinitionRef>().is_err());
    }
}
