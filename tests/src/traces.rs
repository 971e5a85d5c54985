//! Spans as OTLP sends them (protobuf), read by hand: five fields of one message do not earn a code generator.

/// What tests look at in a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Hexadecimal.
    pub trace: String,
    /// Hexadecimal.
    pub id: String,
    /// Id of the parent; empty for the first span of a trace.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// `service.name` of the process that sent it.
    pub service: String,
    /// Attributes with text and number values.
    pub attributes: Vec<(String, String)>,
}

impl Span {
    /// An attribute's value.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }
}

/// Reads an `ExportTraceServiceRequest`; `None` when it is not one.
pub fn decode(bytes: &[u8]) -> Option<Vec<Span>> {
    let mut spans = Vec::new();
    for (field, resource_spans) in messages(bytes)? {
        if field == 1 {
            of_resource(resource_spans, &mut spans)?;
        }
    }
    Some(spans)
}

fn of_resource(bytes: &[u8], spans: &mut Vec<Span>) -> Option<()> {
    let parts = messages(bytes)?;
    let mut service = String::new();
    for (_, resource) in parts.iter().filter(|(field, _)| *field == 1) {
        let attributes = attributes(resource, 1)?;
        service = attributes
            .into_iter()
            .find(|(n, _)| n == "service.name")
            .map(|(_, v)| v)
            .unwrap_or_default();
    }
    for (_, scope_spans) in parts.iter().filter(|(field, _)| *field == 2) {
        for (_, span) in messages(scope_spans)?
            .into_iter()
            .filter(|(field, _)| *field == 2)
        {
            spans.push(Span {
                service: service.clone(),
                ..read_span(span)?
            });
        }
    }
    Some(())
}

fn read_span(bytes: &[u8]) -> Option<Span> {
    let mut span = Span {
        attributes: attributes(bytes, 9)?,
        ..Span::default()
    };
    for (field, value) in messages(bytes)? {
        match field {
            1 => span.trace = hex(value),
            2 => span.id = hex(value),
            4 => span.parent = hex(value),
            5 => span.name = text(value),
            _ => {}
        }
    }
    Some(span)
}

/// All `KeyValue`s in a field of a message.
fn attributes(bytes: &[u8], wanted: u64) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (_, pair) in messages(bytes)?.into_iter().filter(|(field, _)| *field == wanted) {
        let (mut name, mut value) = (String::new(), String::new());
        for (field, part) in messages(pair)? {
            match field {
                1 => name = text(part),
                2 => value = any_value(part)?,
                _ => {}
            }
        }
        found.push((name, value));
    }
    Some(found)
}

/// `AnyValue`: 1 is a text, 2 a boolean, 3 a whole number.
fn any_value(bytes: &[u8]) -> Option<String> {
    let (key, rest) = varint(bytes)?;
    match key {
        0x0A => {
            let (len, rest) = varint(rest)?;
            rest.get(..usize::try_from(len).ok()?).map(text)
        }
        0x10 | 0x18 => Some(varint(rest)?.0.to_string()),
        _ => Some(String::new()),
    }
}

/// The length-delimited fields of a message; others are skipped.
fn messages(mut bytes: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (key, rest) = varint(bytes)?;
        bytes = match key & 7 {
            0 => varint(rest)?.1,
            1 => rest.get(8..)?,
            2 => {
                let (len, rest) = varint(rest)?;
                let len = usize::try_from(len).ok()?;
                found.push((key >> 3, rest.get(..len)?));
                &rest[len..]
            }
            5 => rest.get(4..)?,
            _ => return None,
        };
    }
    Some(found)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7F) << (7 * at).min(63);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let len = u8::try_from(content.len()).unwrap();
        [&[number << 3 | 2, len], content].concat()
    }

    #[test]
    fn an_export_is_read() {
        let pair = |name: &str, value: &str| {
            [field(1, name.as_bytes()), field(2, &field(1, value.as_bytes()))].concat()
        };
        let span = [
            field(1, &[0xAB; 2]),
            field(2, &[1]),
            field(5, b"step"),
            field(9, &pair("k", "v")),
        ]
        .concat();
        let resource = field(1, &pair("service.name", "worker"));
        let export = field(1, &[field(1, &resource), field(2, &field(2, &span))].concat());
        let expected = Span {
            trace: "abab".into(),
            id: "01".into(),
            name: "step".into(),
            service: "worker".into(),
            attributes: vec![("k".into(), "v".into())],
            ..Span::default()
        };
        assert_eq!(decode(&export), Some(vec![expected]));
        assert_eq!(decode(b"\xFF"), None);
    }
}
