//! The user's password: from a file or from the terminal, and never shown.

use super::dialogue::Command;
use crate::config::Problem;
use base64::{Engine, prelude::BASE64_STANDARD};
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

/// A password. It does not print.
#[derive(Clone)]
pub struct Password(Vec<u8>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

impl Password {
    /// The one line of a file, with or without its end.
    pub fn from_file(path: &Path) -> Result<Password, Problem> {
        let complaint =
            |expected| Problem::new(format!("password-file: given {path:?}, expected {expected}"));
        let octets = std::fs::read(path).map_err(|e| complaint(format!("a file that can be read: {e}")))?;
        let line = octets.strip_suffix(b"\n").unwrap_or(&octets);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Password::new(line).ok_or_else(|| complaint("one line that is not empty".to_string()))
    }

    /// What somebody types at the terminal, without an echo.
    pub fn asked_for(target: &str) -> Result<Password, Problem> {
        let unusable = || Problem::new("password: expected one that is not empty");
        let typed = rpassword::prompt_password(format!("Password for {target}: "));
        let typed = typed.map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => {
                eprintln!(); // the cursor stands behind the question
                unusable()
            }
            _ => {
                Problem::new(format!("password: expected a terminal to ask on, or --password-file FILE: {e}"))
            }
        })?;
        Password::new(typed.as_bytes()).ok_or_else(unusable)
    }

    /// No IMAP command takes the others.
    fn new(octets: &[u8]) -> Option<Password> {
        let legal = !octets.is_empty() && !octets.iter().any(|octet| b"\r\n\0".contains(octet));
        legal.then(|| Password(octets.to_vec()))
    }

    /// All ways in which a login says it, so that a server which repeats a command that it refuses shows none.
    pub fn forms(&self, user: &str) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0).into_owned();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        vec![quoted, text, BASE64_STANDARD.encode(self.plain(user))]
    }

    /// The message of PLAIN (RFC 4616).
    fn plain(&self, user: &str) -> Vec<u8> {
        [b"\0", user.as_bytes(), b"\0", &self.0].concat()
    }

    /// The command that logs in: LOGIN, or where the server forbids that, AUTHENTICATE PLAIN.
    pub fn command(&self, user: &str, capabilities: &[String]) -> Command {
        let has = |name: &str| capabilities.iter().any(|token| token.eq_ignore_ascii_case(name));
        match has("LOGINDISABLED") && has("AUTH=PLAIN") {
            true => {
                let line = BASE64_STANDARD.encode(self.plain(user));
                Command::new("AUTHENTICATE PLAIN").after_plus(line.as_bytes())
            }
            false => Command::new("LOGIN").string(user.as_bytes()).string(&self.0),
        }
    }
}
