//! Where something is shown to people, and whether colours mean something there.

use std::io::{self, IsTerminal, Write};

/// A style of the terminal's, by its number (ECMA-48 section 8.3.117).
pub const BOLD: &str = "1";
/// Of less weight.
pub const DIM: &str = "2";
/// What is wrong.
pub const RED: &str = "1;31";
/// What is right.
pub const GREEN: &str = "32";
/// What wants a look.
pub const YELLOW: &str = "33";
/// What somebody says.
pub const CYAN: &str = "36";

/// A place that text goes to.
pub struct Screen<W> {
    /// It.
    pub out: W,
    /// It shows colours.
    pub coloured: bool,
}

impl Screen<io::Stdout> {
    /// Standard output.
    pub fn stdout() -> Self {
        Screen { out: io::stdout(), coloured: is_coloured(&io::stdout()) }
    }
}

/// Whether what goes there has colours: on a terminal, unless that is not wanted.
pub fn is_coloured(out: &impl IsTerminal) -> bool {
    // https://no-color.org: set, and not empty.
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let able = out.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    able && !unwanted
}

impl<W: Write> Screen<W> {
    /// One line in a style.
    pub fn line(&mut self, style: &str, text: &str) -> io::Result<()> {
        let text = self.styled(style, text);
        writeln!(self.out, "{text}")
    }

    /// A part of a line in a style.
    pub fn styled(&self, style: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_string() }
    }
}
