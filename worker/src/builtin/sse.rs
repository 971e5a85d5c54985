//! Server-sent events out of the pieces of a body, without IO: what MCP, A2A and AsyncAPI over HTTP stream with.

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// `event`, `message` unless given.
    pub(super) kind: Option<String>,
    /// The last `id` that was sent up to here.
    pub(super) id: Option<String>,
    /// Lines of `data`, joined.
    pub(super) data: String,
}

/// An event or a line is larger than the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {0} bytes")]
pub(super) struct TooLarge(usize);

/// Cuts a stream into events. Events without data are dropped, as the standard says.
#[derive(Debug)]
pub(super) struct Parser {
    bytes_max: usize,
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed right behind it belongs to it.
    returned: bool,
    id: Option<String>,
    kind: Option<String>,
    data: Option<String>,
    started: bool,
}

impl Parser {
    /// With a bound for each event.
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            line: Vec::new(),
            returned: false,
            id: None,
            kind: None,
            data: None,
            started: false,
        }
    }

    /// Takes a piece and gives the events that it completes.
    ///
    /// # Errors
    /// [`TooLarge`]; the stream is of no use after it.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<Vec<Event>, TooLarge> {
        let mut events = Vec::new();
        for byte in piece {
            match (byte, self.returned) {
                (b'\n', true) => self.returned = false,
                (b'\n' | b'\r', _) => {
                    self.returned = *byte == b'\r';
                    events.extend(self.end_line()?);
                }
                _ => {
                    self.returned = false;
                    self.line.push(*byte);
                    self.check(0)?;
                }
            }
        }
        Ok(events)
    }

    fn check(&self, more: usize) -> Result<(), TooLarge> {
        let held = self.line.len() + self.data.as_ref().map_or(0, String::len) + more;
        if held > self.bytes_max {
            return Err(TooLarge(self.bytes_max));
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Event>, TooLarge> {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let mut line = text.as_ref();
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.end_event());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "event" => self.kind = Some(value.to_owned()),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // `retry`, comments and what is not known.
            _ => {}
        }
        self.check(0).map(|()| None)
    }

    fn end_event(&mut self) -> Option<Event> {
        let kind = self.kind.take();
        self.data.take().map(|data| Event {
            kind,
            id: self.id.clone(),
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(text: &str, piece: usize) -> Vec<String> {
        let mut parser = Parser::new(100);
        let pieces = text.as_bytes().chunks(piece);
        pieces
            .flat_map(|p| parser.feed(p).unwrap())
            .map(|e| e.data)
            .collect()
    }

    #[test]
    fn every_line_ending_and_every_cut_gives_the_same_events() {
        let text = "\u{feff}: hello\ndata: a\ndata:b\n\nevent: x\n\nid: 1\ndata\n\ndata: c\n\ndata: lost";
        for ending in ["\n", "\r\n", "\r"] {
            for piece in 1..12 {
                let found = data(&text.replace('\n', ending), piece);
                assert_eq!(found, ["a\nb", "", "c"], "{ending:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn kind_and_last_id_are_told() {
        let mut parser = Parser::new(100);
        let events = parser
            .feed(b"id: 7\nevent: message\ndata: 1\n\ndata: 2\n\n")
            .unwrap();
        assert_eq!(
            (events[0].kind.as_deref(), events[0].id.as_deref()),
            (Some("message"), Some("7"))
        );
        assert_eq!(
            (events[1].kind.as_deref(), events[1].id.as_deref()),
            (None, Some("7"))
        );
    }

    #[test]
    fn large_events_are_refused_in_one_line_or_many() {
        let mut parser = Parser::new(10);
        assert_eq!(parser.feed(b"data: 12345678901"), Err(TooLarge(10)));
        let mut parser = Parser::new(10);
        assert_eq!(
            parser.feed(b"data: 123\ndata: 456\ndata: 789\n"),
            Err(TooLarge(10))
        );
    }
}
