//! The command line as an operator meets it: bad settings, where settings come from, signals, the admin pages.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long an answer may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// The program, with nothing of this process's own settings in its environment.
fn imapmove(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imapmove"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("IMAPMOVE_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// What the program says when it refuses to start: exit code 2 and one line.
fn refusal(mut command: Command) -> String {
    let output = command.output().expect("runs");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{said}");
    let line = said.strip_suffix('\n').expect("a whole line");
    assert!(!line.contains('\n'), "more than one line: {said}");
    line.strip_prefix("imapmove: ").expect("says who complains").to_string()
}

/// A file that is gone when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("imapmove-cli-{}-{name}", std::process::id()));
        fs::write(&path, content).expect("writes");
        Scratch(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("text")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_bad_flag_gets_one_line_that_says_which_what_and_what_was_expected() {
    const UPSTREAM: [&str; 2] = ["--upstream", "127.0.0.1:9"];
    #[rustfmt::skip]
    let table: &[(&[&str], &str)] = &[
        (&["--upstream-tls", "tls"], "upstream-tls (flag --upstream-tls): given \"tls\", expected off, starttls or implicit"),
        (&["--upstream-name", "a b"], "upstream-name (flag --upstream-name): given \"a b\", expected a host name or an IP address"),
        (&["--upstream-verify", "yes"], "upstream-verify (flag --upstream-verify): given \"yes\", expected full or none"),
        (&["--upstream-ca", "ca.pem"], "upstream-ca (flag --upstream-ca): given \"ca.pem\", expected upstream-tls to be starttls or implicit with it"),
        (&["--upstream-name", "mail"], "upstream-name (flag --upstream-name): given \"mail\", expected upstream-tls to be starttls or implicit with it"),
        (&["--listen", "1143"], "listen (flag --listen): given \"1143\", expected an IP address and a port, such as 127.0.0.1:1143 or [::]:143, or off"),
        (&["--listen", "off"], "listen (flag --listen): given \"off\", expected an address here or in listen-tls"),
        (&["--listen-tls", "127.0.0.1:0"], "listen-tls (flag --listen-tls): given \"127.0.0.1:0\", expected tls-cert and tls-key with it"),
        (&["--admin", "yes"], "admin (flag --admin): given \"yes\", expected an IP address and a port, such as 127.0.0.1:1143 or [::]:143, or off"),
        (&["--tls-cert", "c.pem"], "tls-key: not given, expected a PEM file, because there is a tls-cert"),
        (&["--tls-key", "k.pem"], "tls-cert: not given, expected a PEM file, because there is a tls-key"),
        (&["--tls-cert", "/none/c", "--tls-key", "/none/k"], "tls-cert (flag --tls-cert): given \"/none/c\", expected a PEM file with a certificate: "),
        (&["--require-tls"], "require-tls (flag --require-tls): given \"true\", expected tls-cert and tls-key with it"),
        (&["--require-tls=maybe"], "require-tls (flag --require-tls): given \"maybe\", expected true or false"),
        (&["--journal", "/none"], "journal (flag --journal): given \"/none\", expected a folder that exists: "),
        (&["--journal", "/dev/null"], "journal (flag --journal): given \"/dev/null\", expected a folder that exists: not a directory"),
        (&["--max-line", "12"], "max-line (flag --max-line): given \"12\", expected a whole number from 512 to 65536"),
        (&["--max-connections", "0"], "max-connections (flag --max-connections): given \"0\", expected a whole number from 1 to 1000000"),
        (&["--max-connections-per-ip", "all"], "max-connections-per-ip (flag --max-connections-per-ip): given \"all\", expected a whole number from 1 to 1000000"),
        (&["--max-unauthenticated", "0"], "max-unauthenticated (flag --max-unauthenticated): given \"0\", expected a whole number from 1 to 1000000"),
        (&["--login-timeout", "0s"], "login-timeout (flag --login-timeout): given \"0s\", expected a duration with its unit, such as 500ms, 30s or 2m, above zero and up to 24h"),
        (&["--idle-timeout", "never"], "idle-timeout (flag --idle-timeout): given \"never\", expected a duration with its unit"),
        (&["--move-timeout", "30"], "move-timeout (flag --move-timeout): given \"30\", expected a duration with its unit, such as 500ms, 30s or 2m, above zero and up to 24h"),
        (&["--move-timeout", ""], "move-timeout (flag --move-timeout): given \"\", expected a value"),
        (&["--move-timeout", "a\nb"], "move-timeout (flag --move-timeout): given \"a\\nb\", expected a duration"),
        (&["--drain-deadline", "20s"], "drain-deadline (flag --drain-deadline): given \"20s\", expected drain-deadline to be longer than move-timeout"),
        (&["--move-timeout", "60s"], "move-timeout (flag --move-timeout): given \"60s\", expected drain-deadline to be longer than move-timeout"),
        (&["--admin", "127.0.0.1:1143"], "admin (flag --admin): given \"127.0.0.1:1143\", expected another address than listen has"),
        (&["--listen", "127.0.0.1:9"], "upstream (flag --upstream): given \"127.0.0.1:9\", expected another address than listen, the gateway's own"),
        (&["--proxy-protocol", "on"], "proxy-protocol (flag --proxy-protocol): given \"on\", expected off or required"),
        (&["--proxy-protocol", "required"], "trusted-proxies: not given, expected networks, because proxy-protocol is required"),
        (&["--trusted-proxies", "10.0.0.0/8"], "trusted-proxies (flag --trusted-proxies): given \"10.0.0.0/8\", expected proxy-protocol to be required with it"),
        (&["--trusted-proxies", "10.0.0.1"], "trusted-proxies (flag --trusted-proxies): given \"10.0.0.1\", expected networks with commas"),
        (&["--upstream-proxy-protocol", "v3"], "upstream-proxy-protocol (flag --upstream-proxy-protocol): given \"v3\", expected off, v1 or v2"),
        (&["--drain-grace", "soon"], "drain-grace (flag --drain-grace): given \"soon\", expected a duration with its unit, such as 500ms, 5s or 2m, up to 24h, or 0s"),
        (&["--log-format", "xml"], "log-format (flag --log-format): given \"xml\", expected text or json"),
        (&["--log-user", "all"], "log-user (flag --log-user): given \"all\", expected hash, plain or none"),
        (&["--log-level", "loud"], "log-level (flag --log-level): given \"loud\", expected off, error, warn, info, debug or trace"),
        (&["--config", "/none/file"], "config (flag --config): given \"/none/file\", expected a readable TOML file: "),
        (&["--move-timout", "3s"], "command line: given \"--move-timout\", expected a flag or a command; the nearest is --move-timeout"),
        (&["--colour"], "command line: given \"--colour\", expected a flag or a command that `imapmove --help` lists"),
        (&["check"], "command line: given \"check\", expected no setting before it"),
        (&["--listen"], "command line: given \"--listen\", expected a value after it"),
        (&["--max-line", "600", "--max-line", "700"], "command line: given \"--max-line\", expected it once"),
        (&["--reuse-port", "--reuse-port"], "command line: given \"--reuse-port\", expected it once"),
        (&["--forward-client-id", "true"], "command line: given \"true\", expected it behind the flag and a =, as in --require-tls=true"),
        (&["serve"], "command line: given \"serve\", expected a flag or a command that `imapmove --help` lists"),
        (&["--upstream-tls", "implicit", "--upstream-ca", "ca.pem", "--upstream-verify", "none"], "upstream-ca (flag --upstream-ca): given \"ca.pem\", expected upstream-verify to be full with it"),
        (&["--listen", "192.0.2.1:1"], "listen (flag --listen): given \"192.0.2.1:1\", expected an address that can be bound: this machine has another"),
    ];
    for (arguments, expected) in table {
        let said = refusal(imapmove(&[&UPSTREAM, *arguments].concat()));
        assert!(said.starts_with(expected), "{arguments:?}\n said: {said}\nnot: {expected}");
    }
}

#[test]
fn the_upstream_must_be_stated_and_its_protection_unless_it_is_on_this_machine() {
    let form = "HOST:PORT, such as 127.0.0.1:10143 or mail.example.org:143";
    assert_eq!(refusal(imapmove(&[])), format!("upstream: not given, expected {form}"));
    let said = refusal(imapmove(&["--upstream", "mail"]));
    assert_eq!(said, format!("upstream (flag --upstream): given \"mail\", expected {form}"));
    let said = refusal(imapmove(&["--upstream", "192.0.2.1:143"]));
    let why = "expected off, starttls or implicit, because the upstream is not on this machine";
    assert_eq!(said, format!("upstream-tls: not given, {why}"));
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("bound").to_string();
    let said = refusal(imapmove(&["--upstream", "127.0.0.1:9", "--admin", "off", "--listen", &address]));
    let expected =
        format!("listen (flag --listen): given {address:?}, expected an address that can be bound: ");
    assert!(said.starts_with(&expected), "{said}");
}

#[test]
fn a_bad_file_gets_one_line_that_names_the_line() {
    #[rustfmt::skip]
    let table = [
        ("upstream = \"127.0.0.1:9\"\n\nlissten = \"off\"\n", "config (file FILE, line 3): given \"lissten\", expected a setting; the nearest is listen"),
        ("# nothing\nq = 1\n", "config (file FILE, line 2): given \"q\", expected a setting that `imapmove --help` lists"),
        ("upstream = \"127.0.0.1:9\"\nmax-line = 1\n", "max-line (file FILE, line 2): given \"1\", expected a whole number from 512 to 65536"),
        ("require-tls = \"perhaps\"\nupstream = \"127.0.0.1:9\"\n", "require-tls (file FILE, line 1): given \"perhaps\", expected true or false"),
        ("listen = [\"127.0.0.1:1\"]\n", "listen (file FILE, line 1): given \"[\\\"127.0.0.1:1\\\"]\", expected an IP address and a port, such as 127.0.0.1:1143 or [::]:143, or off, as text"),
        ("max-line = 600.5\n", "max-line (file FILE, line 1): given \"600.5\", expected a whole number from 512 to 65536"),
        ("upstream = \"127.0.0.1:9\"\nmax-line = 0x10\n", "max-line (file FILE, line 2): given \"16\", expected a whole number from 512 to 65536"),
        ("UPSTREAM = \"127.0.0.1:9\"\n", "config (file FILE, line 1): given \"UPSTREAM\", expected a setting; the nearest is upstream"),
        ("[listen]\nport = 1\n", "config (file FILE, line 1): given the table \"listen\", expected settings without tables"),
        ("upstream = \"127.0.0.1:9\"\nlisten = \n", "config (file FILE, line 2): given \"listen = \", expected TOML: "),
        ("max-line = 600\nmax-line = 700\n", "config (file FILE, line 2): given \"max-line = 700\", expected TOML: duplicate key"),
    ];
    for (number, (content, expected)) in table.into_iter().enumerate() {
        let file = Scratch::new(&format!("bad-{number}.toml"), content);
        let said = refusal(imapmove(&["--config", file.path()]));
        assert!(said.starts_with(&expected.replace("FILE", file.path())), "{said}\nnot: {expected}");
    }
}

/// Nobody looks for a setting that was silently not set.
#[test]
fn an_unknown_variable_is_named_unless_it_is_kubernetes() {
    let with = |name: &str| {
        let mut command = imapmove(&["--upstream", "127.0.0.1:9", "--max-line=1"]);
        command.env(name, "tcp://192.0.2.1:143");
        refusal(command)
    };
    let said = with("IMAPMOVE_MOVE_TIMOUT");
    assert_eq!(
        said,
        "environment IMAPMOVE_MOVE_TIMOUT: expected a setting; the nearest is IMAPMOVE_MOVE_TIMEOUT"
    );
    assert!(with("IMAPMOVE_Q").starts_with("environment IMAPMOVE_Q: expected a setting that"));
    for of_kubernetes in [
        "IMAPMOVE_PORT",
        "IMAPMOVE_SERVICE_HOST",
        "IMAPMOVE_PORT_143_TCP_ADDR",
        "IMAPMOVE_OLD_SERVICE_PORT_IMAP",
    ] {
        assert!(with(of_kubernetes).starts_with("max-line (flag "), "{of_kubernetes}");
    }
}

/// What the program prints, and its exit code.
fn printed(mut command: Command) -> (Option<i32>, String) {
    let output = command.stdout(Stdio::piped()).output().expect("runs");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn config_prints_a_file_of_settings_with_where_each_comes_from() {
    let file = Scratch::new("shown.toml", "move-timeout = \"20s\"\nrequire-tls = false\n");
    let flags = ["--upstream", "127.0.0.1:9", "--max-connections", "00050"];
    let mut command = imapmove(&[&["config"], &flags[..], &["--config", file.path()]].concat());
    command.env("IMAPMOVE_MAX_LINE", "600");
    let (code, said) = printed(command);
    assert_eq!(code, Some(0));
    let words = |line: &str| line.split_whitespace().map(str::to_string).collect::<Vec<_>>().join(" ");
    let said_lines: Vec<String> = said.lines().map(words).collect();
    for line in [
        "upstream = \"127.0.0.1:9\" # flag --upstream",
        "max-line = 600 # environment IMAPMOVE_MAX_LINE",
        "max-connections = \"00050\" # flag --max-connections",
        &format!("move-timeout = \"20s\" # file {}, line 1", file.path()),
        &format!("require-tls = false # file {}, line 2", file.path()),
        "admin = \"127.0.0.1:9143\" # default",
        "# tls-cert is not set",
    ] {
        assert!(said_lines.iter().any(|said| said == line), "no {line} in\n{said}");
    }
    let again = Scratch::new("shown-again.toml", &said);
    let (code, said_again) = printed(imapmove(&["config", "--config", again.path()]));
    let values = |text: &str| {
        text.lines().map(|line| words(line.split(" # ").next().unwrap_or(""))).collect::<Vec<_>>()
    };
    assert_eq!((code, values(&said_again)), (Some(0), values(&said)), "what it prints can be read");
}

#[test]
fn check_says_whether_it_could_start() {
    let upstream = ["check", "--upstream", "127.0.0.1:9", "--admin", "127.0.0.1:0"];
    let with = |more: &[&str]| imapmove(&[&upstream, more].concat());
    let folder = std::env::temp_dir();
    let (code, said) =
        printed(with(&["--listen", "127.0.0.1:0", "--journal", folder.to_str().expect("text")]));
    let expected = format!(
        "ok    settings      4 given, the others by default\nok    journal       {}, writable\n\
         ok    listen        127.0.0.1:0, free\nok    admin         127.0.0.1:0, free\n",
        folder.display()
    );
    assert_eq!((code, said), (Some(0), expected));

    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("bound").to_string();
    let said = refusal(with(&["--listen", &address]));
    assert!(
        said.starts_with(&format!("listen (flag --listen): given {address:?}, expected an address that")),
        "{said}"
    );
}

#[test]
fn a_certificate_or_a_key_that_is_of_no_use_says_why() {
    let names = ["gateway.test".to_string()];
    let pair = || rcgen::generate_simple_self_signed(names.to_vec()).expect("a certificate");
    let (mine, others) = (pair(), pair());
    let (cert, key) = (mine.cert.pem(), mine.signing_key.serialize_pem());
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let (cut, damaged) = (&cert[..cert.len() / 2], cert.replacen("MII", "M*I", 1));
    let in_cert = "a PEM file with a certificate: ";
    let another = "the key of the certificate that stands first in tls-cert: this is another's";
    for (number, (cert, key, setting, expected)) in [
        (&*cert, &*others.signing_key.serialize_pem(), "tls-key", another.to_string()),
        (&key, &cert, "tls-cert", format!("{in_cert}there is none in it")),
        (cut, &key, "tls-cert", format!("{in_cert}it has no end")),
        (&damaged, &key, "tls-cert", format!("{in_cert}it is damaged")),
        (&cert, "", "tls-key", "a PEM file with a private key: there is none in it".to_string()),
        (&cert, &encrypted, "tls-key", "a private key without a password, as `openssl pkey` ".to_string()),
    ]
    .into_iter()
    .enumerate()
    {
        let cert = Scratch::new(&format!("cert-{number}.pem"), cert);
        let key = Scratch::new(&format!("key-{number}.pem"), key);
        let path = if setting == "tls-cert" { cert.path() } else { key.path() };
        let files = ["--tls-cert", cert.path(), "--tls-key", key.path()];
        for command in [&["check"][..], &[]] {
            let said = refusal(imapmove(&[command, &["--upstream", "127.0.0.1:9"], &files].concat()));
            let expected = format!("{setting} (flag --{setting}): given {path:?}, expected {expected}");
            assert!(said.starts_with(&expected), "{said}\nnot: {expected}");
        }
    }
}

/// Nothing could be done for who connects there.
#[test]
fn a_socket_for_tls_from_systemd_needs_a_certificate() {
    for command in ["check", ""] {
        let socket = TcpListener::bind("127.0.0.1:0").expect("binds");
        let script = "exec 3<&0; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=listen-tls; exec \"$0\" $1 \
                      --upstream 127.0.0.1:9 --listen 127.0.0.1:0 --admin off";
        let mut shell = Command::new("sh");
        shell.args(["-c", script, env!("CARGO_BIN_EXE_imapmove"), command]);
        shell.stdin(std::os::fd::OwnedFd::from(socket)).stdout(Stdio::null()).stderr(Stdio::piped());
        let expected =
            "tls-cert: not given, expected a PEM file, because systemd has opened the socket for listen-tls";
        assert_eq!(refusal(shell), expected);
    }
}

#[test]
fn what_a_shell_and_man_need() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, said) = printed(imapmove(&["completions", shell]));
        assert_eq!(code, Some(0));
        assert!(said.contains("upstream-verify"), "{shell}");
    }
    let (code, said) = printed(imapmove(&["man"]));
    assert_eq!(code, Some(0));
    assert!(said.contains(".SH OPTIONS") && said.contains("drain\\-deadline"), "{said}");
    let (code, said) = printed(imapmove(&["--version"]));
    assert_eq!(code, Some(0));
    let rest =
        said.strip_prefix(concat!("imapmove ", env!("CARGO_PKG_VERSION"), " (commit ")).expect("the version");
    assert!(rest.ends_with(", TLS by rustls with ring)\n"), "{said}");
    let shells = "expected bash, elvish, fish, powershell or zsh";
    let said = refusal(imapmove(&["completions", "tcsh"]));
    assert_eq!(said, format!("command line: given \"tcsh\", {shells}"));
    assert_eq!(refusal(imapmove(&["completions"])), format!("command line: <SHELL> not given, {shells}"));
}

#[test]
fn a_flag_goes_before_the_environment_before_the_file_before_the_default() {
    // Where the unusable value is said to come from shows which one counts.
    let file = Scratch::new("order.toml", "upstream = \"127.0.0.1:9\"\nmax-line = 1\n");
    let from = |flag: Option<&str>, variable: Option<&str>| {
        let mut command = imapmove(&["--config", file.path()]);
        command.args(flag.map(|value| format!("--max-line={value}")));
        command.envs(variable.map(|value| ("IMAPMOVE_MAX_LINE", value)));
        refusal(command)
    };
    let expected = "expected a whole number from 512 to 65536";
    assert_eq!(from(Some("3"), Some("2")), format!("max-line (flag --max-line): given \"3\", {expected}"));
    let said = format!("max-line (environment IMAPMOVE_MAX_LINE): given \"2\", {expected}");
    assert_eq!(from(None, Some("2")), said);
    let said = format!("max-line (file {}, line 2): given \"1\", {expected}", file.path());
    assert_eq!(from(None, None), said);
    assert_eq!(from(None, Some("")), said, "an empty variable is none");
}

#[test]
fn the_file_can_be_named_by_the_environment() {
    let file = Scratch::new("named.toml", "max-line = 1\nupstream = \"127.0.0.1:9\"\n");
    let mut command = imapmove(&[]);
    command.env("IMAPMOVE_CONFIG", file.path());
    assert!(refusal(command).starts_with("max-line (file "));
}

/// A running gateway.
struct Gateway {
    process: Child,
    log: BufReader<std::process::ChildStderr>,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    fn start(upstream: SocketAddr) -> Gateway {
        let upstream = upstream.to_string();
        let arguments = ["--upstream", &upstream, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let ours = ["--log-format", "text", "--drain-grace", "0s"];
        let mut process = imapmove(&[&arguments[..], &ours].concat()).spawn().expect("starts");
        let mut log = BufReader::new(process.stderr.take().expect("piped"));
        let listen = announced(&mut log, "listen");
        let admin = announced(&mut log, "admin");
        Gateway { process, log, listen, admin }
    }

    fn connect(&self) -> TcpStream {
        connect(self.listen)
    }

    /// The status line and the body of an admin page.
    fn page(&self, path: &str) -> (String, String) {
        let mut stream = connect(self.admin);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("reads");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.lines().next().expect("a status line").to_string(), body.to_string())
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -s {name} {}", self.process.id());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Reads the log until a line holds the words.
    fn wait_for(&mut self, words: &str) {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert_ne!(self.log.read_line(&mut line).expect("reads"), 0, "the log ended before {words:?}");
        }
    }

    fn end(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("reads");
        (self.process.wait().expect("ends"), rest)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn announced(log: &mut impl BufRead, setting: &str) -> SocketAddr {
    let mut line = String::new();
    log.read_line(&mut line).expect("reads");
    assert!(line.contains(&format!("listening setting=\"{setting}\"")), "{line}");
    line.trim_end().rsplit_once("address=").expect("an address").1.parse().expect("an address")
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let mut octet = [0];
    while !line.ends_with(b"\r\n") && stream.read(&mut octet).expect("reads in time") == 1 {
        line.push(octet[0]);
    }
    String::from_utf8(line).expect("text")
}

fn upstream() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

const GREETING: &[u8] = b"* OK [CAPABILITY IMAP4rev1 UIDPLUS] ready\r\n";

#[test]
fn the_admin_pages_say_alive_ready_and_how_much() {
    let (upstream, address) = upstream();
    let gateway = Gateway::start(address);
    assert_eq!(gateway.page("/livez"), ("HTTP/1.1 200 OK".into(), "ok\n".into()));
    assert_eq!(gateway.page("/readyz"), ("HTTP/1.1 200 OK".into(), "{\"ready\":true}\n".into()));
    assert_eq!(gateway.page("/healthz").0, "HTTP/1.1 200 OK");
    let status = format!(
        "{{\"version\":\"{}\",\"phase\":\"running\",\"upstream\":\"{address}\",\"strategy\":\"unknown\",\
         \"sessions\":{{\"open\":0,\"without_login\":0,\"moving\":0,\"under_a_minute\":0,\"under_an_hour\":0,\
         \"oldest_seconds\":0}},\"journal\":{{\"on\":false,\"pending\":0}},\"last_reload_successful\":true}}\n",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(gateway.page("/status"), ("HTTP/1.1 200 OK".into(), status));
    assert_eq!(gateway.page("/secrets").0, "HTTP/1.1 404 Not Found");

    // Every series is there before anything has happened.
    let metrics = gateway.page("/metrics").1;
    for series in [
        "imapmove_build_info{version=\"",
        "imapmove_connections_total{listener=\"plain\"} 0",
        "imapmove_connections_total{listener=\"tls\"} 0",
        "imapmove_connections_active 0",
        "imapmove_connections_rejected_total{reason=\"max_connections_per_ip\"} 0",
        "imapmove_limit_hits_total{limit=\"descriptors\"} 0",
        "imapmove_limit_hits_total{limit=\"write_stall\"} 0",
        "imapmove_moves_total{result=\"moved\",strategy=\"copy\"} 0",
        "imapmove_moves_total{result=\"upstream_lost\",strategy=\"copy\"} 0",
        "imapmove_move_messages_total 0",
        "imapmove_move_duration_seconds_count{strategy=\"native\"} 0",
        "imapmove_moves_in_flight 0",
        "imapmove_upstream_connects_total{result=\"ok\"} 0",
        "imapmove_upstream_connects_total{result=\"failed\"} 0",
        "imapmove_logins_total{mechanism=\"plain\",result=\"refused\"} 0",
        "imapmove_commands_total{command=\"uid_move\"} 0",
        "imapmove_move_left_behind_total{cause=\"not_removed\",stage=\"remove\"} 0",
        "imapmove_move_stage_duration_seconds_count{stage=\"undo\"} 0",
        "imapmove_bytes_total{direction=\"in\",side=\"upstream\"} 0",
        "imapmove_tls_handshakes_total{result=\"failed\",side=\"upstream\"} 0",
        "imapmove_draining 0",
        "process_open_fds ",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(series)), "no {series} in\n{metrics}");
    }

    let mut client = gateway.connect();
    upstream.accept().expect("the gateway connects").0.write_all(GREETING).expect("writes");
    line(&mut client);
    let metrics = gateway.page("/metrics").1;
    for series in [
        "imapmove_connections_total{listener=\"plain\"} 1",
        "imapmove_upstream_connects_total{result=\"ok\"} 1",
        "imapmove_upstream_connect_duration_seconds_count 1",
        &format!("imapmove_bytes_total{{direction=\"in\",side=\"upstream\"}} {}", GREETING.len()),
    ] {
        assert!(metrics.lines().any(|line| line == series), "no {series} in\n{metrics}");
    }
}

#[test]
fn a_signal_with_no_session_ends_at_once_and_clean() {
    for name in ["TERM", "INT"] {
        let gateway = Gateway::start(upstream().1);
        gateway.signal(name);
        let (status, log) = gateway.end();
        assert_eq!(status.code(), Some(0), "{log}");
    }
}

#[test]
fn a_hangup_ends_nothing() {
    let mut gateway = Gateway::start(upstream().1);
    gateway.signal("HUP");
    gateway.wait_for("settings and certificates reloaded");
    assert_eq!(gateway.page("/livez").0, "HTTP/1.1 200 OK");
    gateway.signal("TERM");
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn as_many_descriptors_as_the_system_allows() {
    let gateway = Gateway::start(upstream().1);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.process.id())).expect("reads");
    let open_files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let words: Vec<_> = open_files.split_whitespace().collect();
    assert_eq!(words[3], words[4], "soft and hard: {open_files}");
}

/// WIRE-9: what the gateway ends a session for is in the log too.
#[test]
fn the_log_says_why_the_gateway_ended_a_session() {
    let (upstream, address) = upstream();
    let mut gateway = Gateway::start(address);
    let mut client = gateway.connect();
    upstream
        .accept()
        .expect("the gateway connects")
        .0
        .write_all(b"220 smtp.example.org\r\n")
        .expect("writes");
    assert!(line(&mut client).starts_with("* BYE [UNAVAILABLE] "));
    gateway.wait_for("ended=The mail server did not greet as an IMAP server does");
}

#[test]
fn a_session_that_a_second_signal_cuts_makes_the_exit_code_1() {
    let (upstream, address) = upstream();
    let mut gateway = Gateway::start(address);
    let mut client = gateway.connect();
    let mut server = upstream.accept().expect("the gateway connects").0;
    server.write_all(GREETING).expect("writes");
    line(&mut client);
    // Never answered: a drain waits for the end of a command.
    client.write_all(b"a NOOP\r\n").expect("writes");
    assert_eq!(line(&mut server), "a NOOP\r\n");
    gateway.signal("TERM");
    gateway.wait_for("draining");
    assert_eq!(gateway.page("/livez").0, "HTTP/1.1 200 OK");
    let (status, body) = gateway.page("/readyz");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(body, "{\"ready\":false,\"reason\":\"draining\"}\n");
    let begun = Instant::now();
    while TcpStream::connect(gateway.listen).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "a draining gateway accepts no one");
    }
    gateway.signal("TERM");
    let (status, log) = gateway.end();
    assert_eq!(status.code(), Some(1), "{log}");
}

#[test]
fn a_log_that_nobody_reads_any_more_ends_nothing() {
    let (upstream, address) = upstream();
    let mut gateway = Gateway::start(address);
    // The reading end of its stderr closes.
    gateway.log = BufReader::new(spare_pipe());
    for _ in 0..2 {
        let mut client = gateway.connect();
        upstream.accept().expect("the gateway connects").0.write_all(GREETING).expect("writes");
        assert!(line(&mut client).starts_with("* OK "));
    }
    gateway.signal("TERM");
    assert_eq!(gateway.process.wait().expect("ends").code(), Some(0));
}

/// The stderr of a process that says nothing.
fn spare_pipe() -> std::process::ChildStderr {
    let mut silent = Command::new("true").stderr(Stdio::piped()).spawn().expect("runs");
    let pipe = silent.stderr.take().expect("piped");
    silent.wait().expect("ends");
    pipe
}
