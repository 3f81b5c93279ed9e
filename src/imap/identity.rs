//! Who logs in: the authorisation identity out of LOGIN or AUTHENTICATE, and never a password (FAULT-4, WIRE-7).

use super::grammar;
use std::fmt;

/// The longest identity that is kept, in octets; a longer one is nobody's.
pub const LONGEST_IDENTITY: usize = 1024;

/// How somebody can log in, as it is counted: `login` is the command, `sasl_login` the mechanism.
pub const SASL: [&str; 8] =
    ["login", "plain", "sasl_login", "cram_md5", "scram", "oauthbearer", "xoauth2", "other"];

/// The name in [`SASL`] of an AUTHENTICATE's mechanism, from behind the verb.
pub fn method(arguments: &[u8]) -> &'static str {
    let name = arguments.trim_ascii().split(|c| *c == b' ').next().unwrap_or_default();
    SASL[match Mechanism::named(name) {
        Some(Mechanism::Plain) => 1,
        Some(Mechanism::Login) => 2,
        Some(Mechanism::CramMd5) => 3,
        Some(Mechanism::Scram) => 4,
        Some(Mechanism::OauthBearer) => 5,
        Some(Mechanism::Xoauth2) => 6,
        None => 7,
    }]
}

/// What is known of who logs in.
#[derive(Clone, PartialEq, Eq)]
pub enum Who {
    /// It does not show.
    Unknown,
    /// The first line of the exchange will tell.
    Asked(Mechanism),
    /// This identity, if the upstream says OK.
    Known(Vec<u8>),
}

/// A name is nobody's business.
impl fmt::Debug for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Who")
    }
}

/// SASL mechanisms whose first message says who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616
    Plain,
    /// `draft-murchison-sasl-login`: the name alone.
    Login,
    /// RFC 2195: the name, SP, a digest.
    CramMd5,
    /// RFC 5802, RFC 7677
    Scram,
    /// RFC 7628
    OauthBearer,
    /// The older form of it: `user=`.
    Xoauth2,
}

impl Who {
    /// The user of a LOGIN, from behind the verb to where a password may begin.
    pub fn of_login(arguments: &[u8]) -> Who {
        Who::known(grammar::login_user(arguments))
    }

    /// The user of an AUTHENTICATE, from behind the verb.
    pub fn of_authenticate(arguments: &[u8]) -> Who {
        let mut words = arguments.trim_ascii().splitn(2, |c| *c == b' ');
        let mut who = Mechanism::named(words.next().unwrap_or_default()).map_or(Who::Unknown, Who::Asked);
        if let Some(initial) = words.next() {
            who.read(initial);
        }
        who
    }

    /// The client's next line of the exchange. Only the first one counts.
    pub fn read(&mut self, line: &[u8]) {
        if let Who::Asked(mechanism) = *self {
            *self = Who::known(decode(line).and_then(|message| mechanism.identity(&message)));
        }
    }

    fn known(identity: Option<Vec<u8>>) -> Who {
        let fits = identity.filter(|name| !name.is_empty() && name.len() <= LONGEST_IDENTITY);
        fits.map_or(Who::Unknown, Who::Known)
    }
}

impl Mechanism {
    fn named(name: &[u8]) -> Option<Mechanism> {
        Some(match &name.to_ascii_uppercase()[..] {
            b"PLAIN" => Mechanism::Plain,
            b"LOGIN" => Mechanism::Login,
            b"CRAM-MD5" => Mechanism::CramMd5,
            b"OAUTHBEARER" => Mechanism::OauthBearer,
            b"XOAUTH2" => Mechanism::Xoauth2,
            name if name.starts_with(b"SCRAM-") => Mechanism::Scram,
            _ => return None,
        })
    }

    fn identity(self, message: &[u8]) -> Option<Vec<u8>> {
        match self {
            Mechanism::Plain => {
                let mut parts = message.split(|c| *c == 0);
                let (authorise, authenticate) = (parts.next()?, parts.next()?);
                Some(if authorise.is_empty() { authenticate } else { authorise }.to_vec())
            }
            Mechanism::Login => Some(message.to_vec()),
            Mechanism::CramMd5 => Some(message[..message.iter().rposition(|c| *c == b' ')?].to_vec()),
            Mechanism::Scram => field(message, b',', b"a=").or_else(|| field(message, b',', b"n=")),
            Mechanism::OauthBearer => field(message, b',', b"a="),
            Mechanism::Xoauth2 => field(message, 1, b"user="),
        }
    }
}

/// The value of the first field that begins like this; in SCRAM and OAUTHBEARER as it is escaped there.
fn field(message: &[u8], separator: u8, name: &[u8]) -> Option<Vec<u8>> {
    message.split(|c| *c == separator).find_map(|part| part.strip_prefix(name)).map(<[u8]>::to_vec)
}

/// Base64 (RFC 4648), as SASL writes it; `None` if it is malformed.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut octets = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for digit in group {
            bits = bits << 6 | digit_value(*digit)?;
        }
        bits <<= 6 * (4 - group.len());
        octets.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(octets)
}

fn digit_value(digit: u8) -> Option<u32> {
    Some(u32::from(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use proptest::prelude::*;

    fn after(mechanism: &str, message: &[u8]) -> Option<String> {
        let line = base64::prelude::BASE64_STANDARD.encode(message);
        let apart = {
            let mut who = Who::of_authenticate(format!(" {mechanism}").as_bytes());
            who.read(line.as_bytes());
            who
        };
        let at_once = Who::of_authenticate(format!(" {mechanism} {line}").as_bytes());
        assert_eq!(apart, at_once);
        match apart {
            Who::Known(name) => Some(String::from_utf8(name).unwrap()),
            _ => None,
        }
    }

    #[test]
    fn fault_4_each_mechanism_tells_who_it_is() {
        let name = |name: &str| Some(name.to_string());
        assert_eq!(after("PLAIN", b"\0anna\0secret"), name("anna"));
        assert_eq!(after("plain", b"bert\0anna\0secret"), name("bert"));
        assert_eq!(after("LOGIN", b"anna"), name("anna"));
        assert_eq!(after("CRAM-MD5", b"anna b 3dbc88f0624776a737b39093f6eb6427"), name("anna b"));
        assert_eq!(after("SCRAM-SHA-256", b"n,,n=anna,r=nonce"), name("anna"));
        assert_eq!(after("SCRAM-SHA-1", b"n,a=bert,n=anna,r=nonce"), name("bert"));
        assert_eq!(after("OAUTHBEARER", b"n,a=anna,\x01host=x\x01auth=Bearer t\x01\x01"), name("anna"));
        assert_eq!(after("XOAUTH2", b"user=anna\x01auth=Bearer t\x01\x01"), name("anna"));
        for unknown in ["EXTERNAL", "NTLM", "X"] {
            assert_eq!(after(unknown, b"\0anna\0secret"), None);
        }
        assert_eq!(after("PLAIN", b"anna"), None);
        assert_eq!(after("PLAIN", b"\0\0secret"), None);
    }

    #[test]
    fn fault_4_login_tells_who_it_is_before_the_password() {
        let user = |arguments: &[u8]| Who::of_login(arguments);
        let anna = Who::Known(b"anna".to_vec());
        for login in
            [&b" anna secret"[..], b" \"anna\" secret", b" {4}\r\nanna", b" {4+}\r\nanna", b" anna {6}"]
        {
            assert_eq!(user(login), anna, "{}", login.escape_ascii());
        }
        assert_eq!(user(b" \"an\\\"na\" secret"), Who::Known(b"an\"na".to_vec()));
        for none in [&b""[..], b" ", b" {4}", b" \"anna", b" \"\" secret"] {
            assert_eq!(user(none), Who::Unknown, "{}", none.escape_ascii());
        }
        assert_eq!(format!("{:?}", user(b" anna secret")), "Who");
    }

    proptest! {
        #[test]
        fn base64_agrees_with_a_library(octets in prop::collection::vec(any::<u8>(), 0..100)) {
            let text = base64::prelude::BASE64_STANDARD.encode(&octets);
            prop_assert_eq!(decode(text.as_bytes()), Some(octets));
        }
    }
}
