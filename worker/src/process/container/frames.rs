//! Docker's stream of both outputs in one: each piece has eight bytes before it, which say whose it is and how long.

use super::super::capture::{CaptureError, Captured};

const HEADER: usize = 8;

/// Takes the stream apart, in whatever pieces it comes.
#[derive(Debug)]
pub(super) struct Frames {
    stdout: Captured,
    stderr: Captured,
    rest: Vec<u8>,
    /// Whose bytes come now, and how many.
    current: Option<(u8, usize)>,
}

impl Frames {
    pub(super) const fn new(stdout: Captured, stderr: Captured) -> Self {
        Self {
            stdout,
            stderr,
            rest: Vec::new(),
            current: None,
        }
    }

    pub(super) fn add(&mut self, chunk: &[u8]) -> Result<(), CaptureError> {
        self.rest.extend_from_slice(chunk);
        loop {
            let (whose, length) = match self.current {
                Some(current) => current,
                None if self.rest.len() < HEADER => return Ok(()),
                None => {
                    let head: Vec<u8> = self.rest.drain(..HEADER).collect();
                    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                    (head[0], usize::try_from(length).unwrap_or(usize::MAX))
                }
            };
            let here = length.min(self.rest.len());
            let piece: Vec<u8> = self.rest.drain(..here).collect();
            match whose {
                2 => self.stderr.add(&piece)?,
                _ => self.stdout.add(&piece)?,
            }
            self.current = (here < length).then_some((whose, length - here));
            if self.current.is_some() {
                return Ok(());
            }
        }
    }

    /// Both outputs.
    pub(super) fn into_bytes(self) -> (Vec<u8>, Vec<u8>) {
        (self.stdout.into_bytes(), self.stderr.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::capture::Keep;
    use super::*;

    #[test]
    fn pieces_of_any_size_give_the_same() {
        let mut stream = Vec::new();
        for (whose, text) in [(1, "one "), (2, "err"), (1, ""), (1, "two")] {
            let length = u32::try_from(text.len()).unwrap();
            stream.extend_from_slice(&[whose, 0, 0, 0]);
            stream.extend_from_slice(&length.to_be_bytes());
            stream.extend_from_slice(text.as_bytes());
        }
        for size in 1..stream.len() {
            let mut frames = Frames::new(Captured::new(Keep::Whole), Captured::new(Keep::Whole));
            for chunk in stream.chunks(size) {
                frames.add(chunk).unwrap();
            }
            assert_eq!(frames.into_bytes(), (b"one two".to_vec(), b"err".to_vec()));
        }
    }
}
