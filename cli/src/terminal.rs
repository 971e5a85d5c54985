//! Colours and the width of the terminal. Colours only where a person looks and NO_COLOR is not set.

use std::io::IsTerminal;

/// Colours for one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    coloured: bool,
}

impl Style {
    /// For standard error.
    pub(crate) fn stderr() -> Self {
        Self {
            coloured: is_coloured(std::io::stderr().is_terminal()),
        }
    }

    /// For standard output.
    pub(crate) fn stdout() -> Self {
        Self {
            coloured: is_coloured(std::io::stdout().is_terminal()),
        }
    }

    /// Without colours.
    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self { coloured: false }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.coloured {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Bad.
    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Good.
    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Careful.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Advice.
    pub(crate) fn cyan(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// Less important.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Headings.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// By the phase of an instance.
    pub(crate) fn status(self, status: &str) -> String {
        match status {
            "completed" => self.green(status),
            "faulted" => self.red(status),
            "cancelled" | "suspended" => self.yellow(status),
            _ => self.cyan(status),
        }
    }
}

fn is_coloured(is_terminal: bool) -> bool {
    // https://no-color.org: any value but the empty one.
    let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    is_terminal && !refused && !dumb
}

/// Whether standard error can be drawn upon.
pub(crate) fn is_live() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|t| t != "dumb")
}

/// Columns of the terminal that standard error is.
pub(crate) fn stderr_width() -> usize {
    terminal_size::terminal_size_of(std::io::stderr()).map_or(80, |(width, _)| usize::from(width.0))
}

/// Cuts a text to a number of characters.
pub(crate) fn cut(text: &str, max: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= max && line.len() == text.trim_end().len() {
        return line.to_owned();
    }
    let kept: String = line.chars().take(max.saturating_sub(1)).collect();
    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_many_lined_texts_are_cut() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("a long text", 6), "a lon…");
        assert_eq!(cut("one\ntwo", 10), "one…");
        assert_eq!(cut("ümlaut", 6), "ümlaut");
    }
}
