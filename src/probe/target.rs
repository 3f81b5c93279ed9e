//! The server that is looked at, as the command line names it: `imap(s)://[user@]host[:port]` (RFC 5092, its beginning).

use crate::config::value::{HostPort, Value};
use crate::config::{Problem, URL_FORM};

/// A server, and perhaps a user there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Who logs in.
    pub user: Option<String>,
    /// Where it listens.
    pub at: HostPort,
    /// TLS from the first octet: `imaps://`.
    pub implicit: bool,
}

impl Target {
    /// Reads a URL. A password in it is refused, and is not in the complaint.
    pub fn parse(url: &str) -> Result<Target, Problem> {
        let unusable = || Problem::new(format!("probe: given {url:?}, expected {URL_FORM}"));
        let (scheme, rest) = url.split_once("://").ok_or_else(unusable)?;
        let implicit = match scheme.to_ascii_lowercase().as_str() {
            "imap" => false,
            "imaps" => true,
            _ => return Err(unusable()),
        };
        let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        if user.is_some_and(|user| user.contains(':')) {
            return Err(Problem::new(
                "probe: expected no password in the URL: --password-file, or a prompt, is for it",
            ));
        }
        let user = user.map(|user| decoded(user).ok_or_else(unusable)).transpose()?;
        let host = host.strip_suffix('/').unwrap_or(host);
        let has_port =
            host.rsplit_once(':').is_some_and(|(host, _)| !host.starts_with('[') || host.ends_with(']'));
        let port = if implicit { 993 } else { 143 };
        let at = if has_port { host.to_string() } else { format!("{host}:{port}") };
        Ok(Target { user, at: HostPort::parse(&at).ok_or_else(unusable)?, implicit })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.implicit { "imaps" } else { "imap" };
        let user = self.user.as_ref().map(|user| format!("{}@", user.escape_debug())).unwrap_or_default();
        write!(f, "{scheme}://{user}{}", self.at)
    }
}

/// `%40` is an `@`. Nobody is called nothing, and no name has a control character.
fn decoded(text: &str) -> Option<String> {
    let (mut octets, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, others @ ..] = rest {
        rest = others;
        match (first, others) {
            (b'%', [high, low, others @ ..]) => {
                let digits = [*high, *low];
                octets.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                rest = others;
            }
            _ => octets.push(*first),
        }
    }
    let user = String::from_utf8(octets).ok()?;
    (!user.is_empty() && !user.chars().any(char::is_control)).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        Target::parse(url)
            .map_or_else(|problem| problem.to_string(), |target| format!("{target} {:?}", target.user))
    }

    #[test]
    fn a_server_is_named_by_a_url() {
        assert_eq!(shown("imap://mail.example.org"), "imap://mail.example.org:143 None");
        assert_eq!(
            shown("IMAPS://alice@mail.example.org/"),
            "imaps://alice@mail.example.org:993 Some(\"alice\")"
        );
        assert_eq!(
            shown("imap://a@b.example@[::1]:1143"),
            "imap://a@b.example@[::1]:1143 Some(\"a@b.example\")"
        );
        assert_eq!(shown("imap://a%40b%3A@[::1]"), "imap://a@b:@[::1]:143 Some(\"a@b:\")");
    }

    #[test]
    fn what_names_none_is_refused_and_a_password_is_not_repeated() {
        for bad in [
            "",
            "mail",
            "http://mail",
            "imap://",
            "imap://@mail",
            "imap://a%0a@mail",
            "imap://mail:x",
            "imap://m/INBOX",
        ] {
            assert_eq!(shown(bad), format!("probe: given {bad:?}, expected {URL_FORM}"));
        }
        let said = shown("imap://alice:secret@mail");
        assert!(
            said.starts_with("probe: expected no password in the URL") && !said.contains("secret"),
            "{said}"
        );
    }
}
