//! What definitions may ask of containers, by the worker's configuration.

use std::path::{Path, PathBuf};

use millrace_runtime::config::ProcessConfig;

use super::super::request::configuration;
use crate::Failure;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Policy {
    images: Vec<String>,
    volumes: Vec<PathBuf>,
}

impl Policy {
    pub(super) fn new(config: &ProcessConfig) -> Self {
        Self {
            images: config.container_images.clone(),
            volumes: config.container_volumes.clone(),
        }
    }

    pub(super) fn check_image(&self, image: &str) -> Result<(), Failure> {
        let is_name = !image.is_empty()
            && !image.starts_with('-')
            && image
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._/:@".contains(&b));
        if !is_name {
            return Err(configuration(format!("`{image}` is not the name of an image")));
        }
        if self.images.is_empty() || self.images.iter().any(|pattern| fits(pattern, image)) {
            return Ok(());
        }
        Err(configuration(format!(
            "image `{image}` may not be run here: MILLRACE_CONTAINER_IMAGES of this worker allows {}",
            self.images.join(", ")
        )))
    }

    pub(super) fn check_volume(&self, host: &str) -> Result<(), Failure> {
        // Nothing below them: a container that was given the directory can put a link there that leads anywhere.
        if !host.contains(':') && self.volumes.iter().any(|dir| Path::new(host) == dir) {
            return Ok(());
        }
        let named: Vec<String> = self.volumes.iter().map(|d| d.display().to_string()).collect();
        let named = if named.is_empty() {
            "none".to_owned()
        } else {
            named.join(", ")
        };
        Err(configuration(format!(
            "directory `{host}` may not be mounted: MILLRACE_CONTAINER_VOLUMES of this worker names {named}, and only \
             these themselves can be"
        )))
    }
}

/// `*` stands for any text, also none.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in between {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_images() {
        assert!(fits("alpine", "alpine") && !fits("alpine", "alpine:3"));
        assert!(fits("alpine:*", "alpine:3") && fits("*", "x") && fits("a*c*e", "abcde"));
        assert!(!fits("a*b", "a") && !fits("reg.example/*", "evil/reg.example/x") && !fits("aa*aa", "aaa"));
    }

    #[test]
    fn images_are_names_and_may_be_limited() {
        let open = Policy::default();
        assert!(open.check_image("reg.example:5000/a/b:1@sha256:00").is_ok());
        for bad in ["", "--privileged", "a b", "a?b", "a\nb"] {
            assert!(open.check_image(bad).is_err(), "{bad}");
        }
        let closed = Policy {
            images: vec!["alpine:*".into()],
            ..Policy::default()
        };
        assert!(closed.check_image("alpine:3").is_ok());
        let text = closed.check_image("ubuntu").unwrap_err().to_string();
        assert!(
            text.starts_with("configuration error 400: image `ubuntu`"),
            "{text}"
        );
    }

    #[test]
    fn volumes_are_the_named_directories_themselves() {
        let none = Policy::default();
        assert!(none.check_volume("/data").is_err());
        let some = Policy {
            volumes: vec!["/data".into(), "/a:b".into()],
            ..Policy::default()
        };
        assert!(some.check_volume("/data").is_ok() && some.check_volume("/data/").is_ok());
        for bad in [
            "/database",
            "/data/../etc",
            "data/x",
            "named",
            "/data/x",
            "/data/x/..",
            "/data:/etc",
            "/a:b",
            "",
        ] {
            assert!(some.check_volume(bad).is_err(), "{bad}");
        }
    }
}
