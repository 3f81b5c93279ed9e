//! Every setting, its default, its unit and its help, in one table.
//!
//! A line of the table is a flag, an environment variable, a key of the file and a field of [`Config`]. Where a
//! setting is given twice, flag > environment > file > default.

mod source;
pub mod value;

pub use source::URL_FORM;

use crate::imap::{self, Tls};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use value::{
    Choice, Folder, HostPort, Inbound, Listener, LogFormat, LogUser, Networks, Number, Optional, OrZero,
    Outbound, Value, Verify,
};

/// One line of the table.
#[derive(Debug)]
pub struct Setting {
    /// The field's name; the flag's and the key's with `-` for `_`, the variable's in capitals.
    field: &'static str,
    /// As it would be written in the file; empty: not set.
    pub default: &'static str,
    /// A sentence for `--help` and the README.
    pub help: &'static str,
    /// What stands for the value in `--help`.
    pub placeholder: &'static str,
    /// What is said to be expected where the value is another.
    expected: fn() -> String,
    /// SIGHUP takes up another value; else that needs a restart.
    pub reloads: bool,
}

impl Setting {
    /// The name as a flag (without `--`) and as a key of the file.
    pub fn name(&self) -> String {
        self.field.replace('_', "-")
    }

    /// The name of the environment variable.
    pub fn variable(&self) -> String {
        format!("IMAPMOVE_{}", self.field.to_uppercase())
    }
}

macro_rules! settings {
    ($($field:ident: $value:ty = $default:literal $($reloads:ident)?, $help:literal;)*) => {
        /// Every setting there is, in the order of `--help`.
        pub const TABLE: &[Setting] = &[$(Setting {
            field: stringify!($field),
            default: $default,
            help: $help,
            placeholder: <$value as Value>::PLACEHOLDER,
            expected: <$value as Value>::expected,
            reloads: settings!(@ $($reloads)?),
        }),*];

        /// The effective settings.
        #[derive(Clone, Debug)]
        pub struct Config {
            $(#[doc = $help] pub $field: <$value as Value>::Parsed,)*
            given: Given,
        }

        impl Config {
            fn read(given: Given) -> Result<Config, Problem> {
                Ok(Config { $($field: given.parse::<$value>(stringify!($field))?,)* given })
            }
        }
    };
    (@ reloads) => { true };
    (@) => { false };
}

settings! {
    upstream: HostPort = "", "The IMAP server to put MOVE in front of";
    upstream_tls: Optional<Choice<Tls>> = "", "TLS to the upstream; only for one on this machine it is off by itself";
    upstream_ca: Optional<PathBuf> = "" reloads, "PEM file of the authorities to trust for the upstream, instead of the system's";
    upstream_name: Optional<String> = "", "Name that the upstream's certificate must carry, if not its HOST";
    upstream_verify: Choice<Verify> = "full", "Whether the upstream's certificate must be valid";
    listen: Listener = "127.0.0.1:1143", "Where clients connect in clear; STARTTLS is offered if there is a certificate";
    listen_tls: Listener = "", "Where clients connect with TLS from the first octet";
    tls_cert: Optional<PathBuf> = "" reloads, "PEM file of the certificate that clients see, followed by its chain";
    tls_key: Optional<PathBuf> = "" reloads, "PEM file of that certificate's private key";
    reuse_port: bool = "false", "Another process of the same user may listen at the same addresses: one that takes over";
    require_tls: bool = "false", "No login without TLS on the client's side";
    admin: Listener = "127.0.0.1:9143", "Where /livez, /readyz, /metrics and /status are served";
    advertise_before_login: bool = "false", "Capability lists before login show MOVE too, once a login has shown that it works";
    proxy_protocol: Choice<Inbound> = "off", "Whether each connection begins with a PROXY header (v1 or v2) that says where the client comes from";
    trusted_proxies: Networks = "", "Networks that may send it, such as 192.0.2.7/32,2001:db8::/64; others are turned away";
    upstream_proxy_protocol: Choice<Outbound> = "off", "PROXY header that tells the upstream where the client comes from";
    forward_client_id: bool = "false", "The upstream is told so by ID (RFC 2971), as Dovecot reads it from login_trusted_networks";
    journal: Optional<Folder> = "", "Folder for the journal, by which a MOVE that was cut short is finished at the next login";
    max_connections: Number<1, 1_000_000> = "10000" reloads, "Clients at one time; one more is turned away";
    max_connections_per_ip: Number<1, 1_000_000> = "5000" reloads, "Of these, clients from one IPv4 address or one IPv6 /64";
    max_unauthenticated: Number<1, 1_000_000> = "2000" reloads, "Of these, clients that have not logged in; one more may make the longest waiting one leave";
    login_timeout: Duration = "3m" reloads, "How long a client may take to log in";
    idle_timeout: Duration = "1h" reloads, "How long client and server may both be silent after login, with no command in progress; RFC 9051 wants 30m or more";
    max_line: Number<512, 65_536> = "8000" reloads, "Longest command line, in octets, that is written to the upstream for a MOVE";
    move_timeout: Duration = "30s" reloads, "How long a MOVE may stand without progress before the upstream counts as gone";
    drain_grace: OrZero = "5s" reloads, "How long a shutdown still takes new connections, while /readyz says that they should go elsewhere";
    drain_deadline: Duration = "45s" reloads, "How long a shutdown then waits for sessions; longer than move-timeout";
    log_level: Choice<LevelFilter> = "info" reloads, "What is logged to stderr";
    log_format: Optional<Choice<LogFormat>> = "", "How it is logged; text on a terminal and json elsewhere, if this is not set";
    log_user: Choice<LogUser> = "hash", "How a session's user is named there; a hash has the same user the same until the next start";
}

impl Config {
    /// The settings of this process: `flags`, as [`command`] made them, the environment, and the file they name.
    pub fn load(flags: &clap::ArgMatches) -> Result<Config, Problem> {
        Config::read(source::gather(flags)?)?.checked()
    }

    /// These settings with what SIGHUP may change taken from `new`, and the names of what differs there and needs a
    /// restart.
    ///
    /// # Errors
    /// If the certificate is gone, too: sessions were offered STARTTLS.
    pub fn reloaded(&self, new: &Config) -> Result<(Config, Vec<String>), Problem> {
        let (mut given, mut others) = (self.given.clone(), Vec::new());
        for setting in TABLE {
            let field = setting.field;
            match (setting.reloads, new.given.0.get(field)) {
                (true, Some(text)) => drop(given.0.insert(field.to_string(), text.clone())),
                (true, None) => drop(given.0.remove(field)),
                (false, _) if new.given.text(field).0 != self.given.text(field).0 => {
                    others.push(setting.name())
                }
                (false, _) => {}
            }
        }
        if self.tls_cert.is_some() && new.tls_cert.is_none() {
            return Err(new.problem("tls-cert", "a PEM file, as until now: only a restart does without it"));
        }
        Ok((Config::read(given)?.checked()?, others))
    }

    /// The effective settings as a file of settings, each with its origin.
    pub fn shown(&self) -> String {
        TABLE.iter().map(|setting| self.given.shown(setting)).collect()
    }

    /// How many settings were given.
    pub fn given(&self) -> usize {
        self.given.0.len()
    }

    /// Settings made by the program itself, each with its name in the table.
    pub fn with(settings: &[(&'static str, &str)]) -> Result<Config, Problem> {
        let mut given = Given::default();
        for (name, text) in settings {
            given.0.insert(name.replace('-', "_"), (text.to_string(), "program".to_string()));
        }
        Config::read(given)?.checked()
    }

    /// A gateway like the one that these flags of `imapmove probe` and the environment are for, with `ours` on top.
    pub fn of_probe(flags: &clap::ArgMatches, ours: &[(&str, &str)]) -> Result<Config, Problem> {
        let mut given = source::gather_for_probe(flags)?;
        for (name, text) in ours {
            given.0.insert(name.replace('-', "_"), (text.to_string(), "program".to_string()));
        }
        Config::read(given)?.checked()
    }

    /// Which protection of the upstream leg they state, if any.
    pub fn tls_of_probe(flags: &clap::ArgMatches) -> Result<Option<Tls>, Problem> {
        source::gather_for_probe(flags)?.parse::<Optional<Choice<Tls>>>("upstream_tls")
    }

    /// How the upstream leg is protected.
    pub fn upstream_tls(&self) -> Tls {
        self.upstream_tls.unwrap_or(Tls::Off)
    }

    /// What a session on a leg protected like `client_tls` is told.
    pub fn session(&self, client_tls: Tls) -> imap::Settings {
        imap::Settings {
            client_tls,
            upstream_tls: self.upstream_tls(),
            require_tls: self.require_tls,
            advertise_before_login: self.advertise_before_login,
            journal: true,
            max_line: self.max_line,
            move_timeout: self.move_timeout,
            login_timeout: self.login_timeout,
            idle_timeout: self.idle_timeout,
            ..imap::Settings::default()
        }
    }

    /// A setting that turned out to be of no use: its name, and what was expected.
    pub fn problem(&self, name: &str, expected: impl fmt::Display) -> Problem {
        self.given.problem(&name.replace('-', "_"), &expected)
    }

    /// What no setting shows alone.
    fn checked(self) -> Result<Config, Problem> {
        let upstream_in_clear = self.upstream_tls() == Tls::Off;
        let has = |file: &Option<PathBuf>| file.is_some();
        let own = [("listen", self.listen), ("listen-tls", self.listen_tls), ("admin", self.admin)];
        let upstream = format!("{}:{}", self.upstream.host, self.upstream.port);
        for (place, (name, address)) in own.iter().enumerate() {
            let Some(address) = address.filter(|address| address.port() != 0) else { continue };
            if let Some((other, _)) = own[..place].iter().find(|(_, other)| *other == Some(address)) {
                return Err(self.problem(name, format!("another address than {other} has")));
            }
            if upstream.parse() == Ok(address) {
                return Err(
                    self.problem("upstream", format!("another address than {name}, the gateway's own"))
                );
            }
        }
        let contradictions = [
            (
                self.upstream_tls.is_none() && !self.upstream.is_loopback(),
                "upstream-tls",
                "off, starttls or implicit, because the upstream is not on this machine",
            ),
            (
                upstream_in_clear && has(&self.upstream_ca),
                "upstream-ca",
                "upstream-tls to be starttls or implicit with it",
            ),
            (
                upstream_in_clear && self.upstream_name.is_some(),
                "upstream-name",
                "upstream-tls to be starttls or implicit with it",
            ),
            (
                has(&self.upstream_ca) && self.upstream_verify == Verify::None,
                "upstream-ca",
                "upstream-verify to be full with it",
            ),
            (
                has(&self.tls_cert) && !has(&self.tls_key),
                "tls-key",
                "a PEM file, because there is a tls-cert",
            ),
            (
                has(&self.tls_key) && !has(&self.tls_cert),
                "tls-cert",
                "a PEM file, because there is a tls-key",
            ),
            (self.listen_tls.is_some() && !has(&self.tls_cert), "listen-tls", "tls-cert and tls-key with it"),
            (self.require_tls && !has(&self.tls_cert), "require-tls", "tls-cert and tls-key with it"),
            (
                self.proxy_protocol == Inbound::Required && self.trusted_proxies.is_empty(),
                "trusted-proxies",
                "networks, because proxy-protocol is required",
            ),
            (
                self.proxy_protocol == Inbound::Off && !self.trusted_proxies.is_empty(),
                "trusted-proxies",
                "proxy-protocol to be required with it",
            ),
            (
                self.listen.is_none() && self.listen_tls.is_none(),
                "listen",
                "an address here or in listen-tls",
            ),
            (
                self.drain_deadline <= self.move_timeout,
                if self.given.0.contains_key("drain_deadline") { "drain-deadline" } else { "move-timeout" },
                "drain-deadline to be longer than move-timeout",
            ),
        ];
        match contradictions.into_iter().find(|(found, ..)| *found) {
            Some((_, name, expected)) => Err(self.problem(name, expected)),
            None => Ok(self),
        }
    }
}

/// The command line, made from the table.
pub fn command() -> clap::Command {
    source::command()
}

/// What was given for each field, and where.
#[derive(Clone, Debug, Default)]
struct Given(BTreeMap<String, (String, String)>);

impl Given {
    fn parse<V: Value>(&self, field: &str) -> Result<V::Parsed, Problem> {
        let (text, _) = self.text(field);
        V::parse(&text).ok_or_else(|| self.problem(field, &V::expected()))
    }

    /// The text for a field and its origin.
    fn text(&self, field: &str) -> (String, String) {
        let default = || TABLE.iter().find(|s| s.field == field).map_or("", |s| s.default);
        self.0.get(field).cloned().unwrap_or_else(|| (default().to_string(), "default".to_string()))
    }

    /// A line of a file of settings.
    fn shown(&self, setting: &Setting) -> String {
        let name = setting.name();
        match self.text(setting.field) {
            (text, _) if text.is_empty() => format!("# {name} is not set\n"),
            (text, origin) => {
                let line = format!("{name} = {}", toml_of(&text));
                format!("{line:<47} # {origin}\n")
            }
        }
    }

    fn problem(&self, field: &str, expected: &dyn fmt::Display) -> Problem {
        let name = field.replace('_', "-");
        match self.text(field) {
            (text, _) if text.is_empty() => Problem(format!("{name}: not given, expected {expected}")),
            (text, origin) => Problem(format!("{name} ({origin}): given {text:?}, expected {expected}")),
        }
    }
}

/// As it is written in the file.
fn toml_of(text: &str) -> String {
    // Not `00050`, which TOML has no number for.
    let is_number = text.parse::<u32>().is_ok_and(|number| number.to_string() == text);
    match is_number || text.parse::<bool>().is_ok() {
        true => text.to_string(),
        false => toml::Value::from(text).to_string(),
    }
}

/// A setting that cannot be used, in one line: which, where it came from, what was given and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(String);

impl Problem {
    /// What cannot be used, and what was expected instead.
    pub fn new(text: impl Into<String>) -> Problem {
        Problem(text.into())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Problem {}
