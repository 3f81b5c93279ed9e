//! What a setting can be: how each kind of value is written, and what is said when it is not.

use crate::imap::Tls;
use ipnet::IpNet;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// A kind of value.
pub trait Value {
    /// What the text becomes.
    type Parsed;
    /// What stands for it in `--help`.
    const PLACEHOLDER: &'static str;
    /// What was expected, to follow that very word.
    fn expected() -> String;
    /// The value that a text stands for.
    fn parse(text: &str) -> Option<Self::Parsed>;
}

/// A value that may be absent: not given, or `off`.
pub struct Optional<V>(PhantomData<V>);

impl<V: Value> Value for Optional<V> {
    type Parsed = Option<V::Parsed>;
    const PLACEHOLDER: &'static str = V::PLACEHOLDER;

    fn expected() -> String {
        V::expected()
    }

    fn parse(text: &str) -> Option<Self::Parsed> {
        if text.is_empty() { Some(None) } else { V::parse(text).map(Some) }
    }
}

impl Value for String {
    type Parsed = String;
    const PLACEHOLDER: &'static str = "NAME";

    fn expected() -> String {
        "a host name or an IP address".to_string()
    }

    fn parse(text: &str) -> Option<String> {
        rustls::pki_types::ServerName::try_from(text).is_ok().then(|| text.to_string())
    }
}

/// A duration that may be none at all.
pub struct OrZero;

impl Value for OrZero {
    type Parsed = Duration;
    const PLACEHOLDER: &'static str = Duration::PLACEHOLDER;

    fn expected() -> String {
        "a duration with its unit, such as 500ms, 5s or 2m, up to 24h, or 0s".to_string()
    }

    fn parse(text: &str) -> Option<Duration> {
        humantime::parse_duration(text).ok().filter(|d| *d <= LONGEST)
    }
}

impl Value for PathBuf {
    type Parsed = PathBuf;
    const PLACEHOLDER: &'static str = "FILE";

    fn expected() -> String {
        "the path of a file".to_string()
    }

    fn parse(text: &str) -> Option<PathBuf> {
        Some(text.into())
    }
}

/// The path of a folder. Whether there is one shows when it is opened.
pub struct Folder;

impl Value for Folder {
    type Parsed = PathBuf;
    const PLACEHOLDER: &'static str = "DIR";

    fn expected() -> String {
        "the path of a folder".to_string()
    }

    fn parse(text: &str) -> Option<PathBuf> {
        Some(text.into())
    }
}

impl Value for bool {
    type Parsed = bool;
    const PLACEHOLDER: &'static str = "true|false";

    fn expected() -> String {
        "true or false".to_string()
    }

    fn parse(text: &str) -> Option<bool> {
        text.parse().ok()
    }
}

/// Durations of more than a day are slips of the pen, and would overflow the clock's arithmetic somewhere.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Value for Duration {
    type Parsed = Duration;
    const PLACEHOLDER: &'static str = "DURATION";

    fn expected() -> String {
        "a duration with its unit, such as 500ms, 30s or 2m, above zero and up to 24h".to_string()
    }

    fn parse(text: &str) -> Option<Duration> {
        humantime::parse_duration(text).ok().filter(|d| !d.is_zero() && *d <= LONGEST)
    }
}

/// A whole number between two bounds, both allowed.
pub struct Number<const LEAST: usize, const MOST: usize>;

impl<const LEAST: usize, const MOST: usize> Value for Number<LEAST, MOST> {
    type Parsed = usize;
    const PLACEHOLDER: &'static str = "NUMBER";

    fn expected() -> String {
        format!("a whole number from {LEAST} to {MOST}")
    }

    fn parse(text: &str) -> Option<usize> {
        text.parse().ok().filter(|n| (LEAST..=MOST).contains(n))
    }
}

/// An address to listen on, or `off`.
pub struct Listener;

impl Value for Listener {
    type Parsed = Option<SocketAddr>;
    const PLACEHOLDER: &'static str = "ADDRESS:PORT|off";

    fn expected() -> String {
        "an IP address and a port, such as 127.0.0.1:1143 or [::]:143, or off".to_string()
    }

    fn parse(text: &str) -> Option<Option<SocketAddr>> {
        match text {
            "" | "off" => Some(None),
            text => text.parse().ok().map(Some),
        }
    }
}

/// A server by name or address, and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A host name, or an IP address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl HostPort {
    /// Whether it can only be this machine.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        address.map_or_else(|_| self.host.eq_ignore_ascii_case("localhost"), |a| a.is_loopback())
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Value for HostPort {
    type Parsed = HostPort;
    const PLACEHOLDER: &'static str = "HOST:PORT";

    fn expected() -> String {
        "HOST:PORT, such as 127.0.0.1:10143 or mail.example.org:143".to_string()
    }

    fn parse(text: &str) -> Option<HostPort> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        rustls::pki_types::ServerName::try_from(bare).ok()?;
        Some(HostPort { host: bare.to_string(), port })
    }
}

/// Something that is one of a few names.
pub trait Named: Clone + 'static {
    /// All of them.
    const NAMES: &'static [(&'static str, Self)];
    /// The same for `--help`.
    const PLACEHOLDER: &'static str;
}

/// A [`Named`] value.
pub struct Choice<T>(PhantomData<T>);

impl<T: Named> Value for Choice<T> {
    type Parsed = T;
    const PLACEHOLDER: &'static str = T::PLACEHOLDER;

    fn expected() -> String {
        let names: Vec<&str> = T::NAMES.iter().map(|(name, _)| *name).collect();
        let (last, others) = names.split_last().expect("a choice has names");
        format!("{} or {last}", others.join(", "))
    }

    fn parse(text: &str) -> Option<T> {
        T::NAMES.iter().find(|(name, _)| *name == text).map(|(_, value)| value.clone())
    }
}

impl Named for Tls {
    const NAMES: &'static [(&'static str, Tls)] =
        &[("off", Tls::Off), ("starttls", Tls::StartTls), ("implicit", Tls::Implicit)];
    const PLACEHOLDER: &'static str = "off|starttls|implicit";
}

/// How far a certificate is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Issued by a trusted authority, for the right name, now.
    Full,
    /// Whatever it is: protects from listeners, not from impostors.
    None,
}

impl Named for Verify {
    const NAMES: &'static [(&'static str, Verify)] = &[("full", Verify::Full), ("none", Verify::None)];
    const PLACEHOLDER: &'static str = "full|none";
}

impl Named for LevelFilter {
    const NAMES: &'static [(&'static str, LevelFilter)] = &[
        ("off", LevelFilter::OFF),
        ("error", LevelFilter::ERROR),
        ("warn", LevelFilter::WARN),
        ("info", LevelFilter::INFO),
        ("debug", LevelFilter::DEBUG),
        ("trace", LevelFilter::TRACE),
    ];
    const PLACEHOLDER: &'static str = "off|error|warn|info|debug|trace";
}

/// Networks in CIDR notation, with commas between them.
pub struct Networks;

impl Value for Networks {
    type Parsed = Vec<IpNet>;
    const PLACEHOLDER: &'static str = "CIDR,...";

    fn expected() -> String {
        "networks with commas between them, such as 192.0.2.7/32,2001:db8::/64".to_string()
    }

    fn parse(text: &str) -> Option<Vec<IpNet>> {
        let networks =
            text.split(',').map(str::trim).filter(|network| !network.is_empty() || !text.is_empty());
        networks.map(|network| network.parse().ok()).collect()
    }
}

/// Whether connections begin with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// None does.
    Off,
    /// Each does.
    Required,
}

impl Named for Inbound {
    const NAMES: &'static [(&'static str, Inbound)] =
        &[("off", Inbound::Off), ("required", Inbound::Required)];
    const PLACEHOLDER: &'static str = "off|required";
}

/// Which PROXY header the upstream gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// None.
    Off,
    /// A line of text.
    V1,
    /// The binary one.
    V2,
}

impl Named for Outbound {
    const NAMES: &'static [(&'static str, Outbound)] =
        &[("off", Outbound::Off), ("v1", Outbound::V1), ("v2", Outbound::V2)];
    const PLACEHOLDER: &'static str = "off|v1|v2";
}

/// How the log names a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogUser {
    /// By a hash under a key of this process: the same user has the same one until the next start.
    Hash,
    /// As the user has logged in.
    Plain,
    /// Not at all.
    None,
}

impl Named for LogUser {
    const NAMES: &'static [(&'static str, LogUser)] =
        &[("hash", LogUser::Hash), ("plain", LogUser::Plain), ("none", LogUser::None)];
    const PLACEHOLDER: &'static str = "hash|plain|none";
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Named for LogFormat {
    const NAMES: &'static [(&'static str, LogFormat)] =
        &[("text", LogFormat::Text), ("json", LogFormat::Json)];
    const PLACEHOLDER: &'static str = "text|json";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_port_may_be_a_name_or_an_address() {
        let parsed = |text| HostPort::parse(text).map(|h| (h.to_string(), h.is_loopback()));
        assert_eq!(parsed("localhost:143"), Some(("localhost:143".into(), true)));
        assert_eq!(parsed("127.1.2.3:143"), Some(("127.1.2.3:143".into(), true)));
        assert_eq!(parsed("[::1]:993"), Some(("[::1]:993".into(), true)));
        assert_eq!(parsed("mail.example.org:143"), Some(("mail.example.org:143".into(), false)));
        for bad in ["", "host", "host:", ":143", "host:0", "host:65536", "a b:143", "host:+x"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_duration_has_a_unit_and_an_end() {
        assert_eq!(Duration::parse("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(Duration::parse("24h"), Some(LONGEST));
        for bad in ["", "30", "0s", "-1s", "25h", "soon"] {
            assert_eq!(Duration::parse(bad), None, "{bad}");
        }
    }
}
