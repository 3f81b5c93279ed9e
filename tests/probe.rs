//! `imapmove probe` as an operator meets it: against the demo's server, and against servers that mean ill.

#[path = "support/client.rs"]
#[allow(dead_code, reason = "the tests on real servers use the rest")]
mod client;
#[path = "support/tap.rs"]
#[allow(dead_code, reason = "the tests on real servers use the rest")]
mod tap;

use client::Client;
use imapmove::demo::Server;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use tap::{Tap, Words};
use tempfile::TempDir;

/// A file with a password.
struct PasswordFile {
    path: String,
    _folder: TempDir,
}

impl PasswordFile {
    fn new(content: &[u8]) -> PasswordFile {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("password");
        std::fs::write(&path, content).expect("writes");
        PasswordFile { path: path.to_str().expect("text").to_string(), _folder: folder }
    }
}

fn probe(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imapmove"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("IMAPMOVE_")) {
        command.env_remove(name);
    }
    // A terminal of its own session, which is none.
    command.arg("probe").args(arguments).stdin(Stdio::null());
    command
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).expect("text")
}

/// Exit code and standard output. It complains about nothing.
fn shown(arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = probe(arguments).output().expect("runs");
    assert_eq!(text(&stderr), "");
    (status.code().expect("an exit code"), text(&stdout))
}

/// As user demo, with these further flags.
fn as_demo(address: SocketAddr, flags: &[&str]) -> (i32, String) {
    let file = PasswordFile::new(b"demo\n");
    let url = format!("imap://demo@{address}");
    shown(&[&[&url, "--password-file", &file.path], flags].concat())
}

fn json(said: &str) -> Value {
    serde_json::from_str(said).unwrap_or_else(|e| panic!("{e}: {said}"))
}

fn quirks(report: &Value) -> Vec<&str> {
    let quirks = report["quirks"].as_array().expect("a list");
    quirks.iter().map(|quirk| quirk["name"].as_str().expect("a name")).collect()
}

/// What a report says, with its times and its port as T and P.
fn timeless(said: &str, address: SocketAddr) -> String {
    let said = said.replace(&address.port().to_string(), "P");
    let mut words: Vec<&str> = said.split(' ').collect();
    for i in 1..words.len() {
        if words[i].starts_with("ms") {
            words[i - 1] = "T";
        }
    }
    words.join(" ")
}

fn mailboxes(address: SocketAddr) -> Vec<String> {
    let mut client = Client::connect(address);
    client.ok("LOGIN demo demo");
    client.ok("LIST \"\" *").lines()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_will_work_and_tries_it_and_leaves_nothing() {
    let server = Server::start().await.expect("a port");
    let before = mailboxes(server.address());
    let (code, said) = as_demo(server.address(), &["--try"]);
    let expected = "\
imapmove probe imap://demo@127.0.0.1:P

Server
  connection    127.0.0.1:P, in clear, made in T ms
  greeting      OK An old server, for the demo
  round trip    T ms; a UID MOVE through the gateway takes two

Capabilities  before login  after login
  MOVE        no            no            the server's own, passes through
  IMAP4rev2   no            no            has a MOVE of its own
  UIDPLUS     yes           yes           what the gateway needs
  ACL         no            no            the first MOVE asks for rights
  CONDSTORE   no            no            passes through
  QRESYNC     no            no            passes through

Tried, through a gateway, with two mailboxes made for it
  ok     clients see MOVE after their login
  ok     UID MOVE there: OK in T ms, with COPYUID
  ok     the client saw it leave
  ok     there it is, once: octets, flags and date as they were
  ok     MOVE back: OK in T ms, with COPYUID
  ok     the client saw it leave
  ok     there it is, once: octets, flags and date as they were
  ok     nothing is left behind

MOVE will work.
The server has UIDPLUS and no MOVE: the gateway carries out each MOVE, by UID
COPY, UID STORE and UID EXPUNGE, and removes only what COPYUID proves to be
copied.
";
    assert_eq!(timeless(&said, server.address()), expected);
    assert_eq!(code, 0);
    assert_eq!(mailboxes(server.address()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_get_json() {
    let server = Server::start().await.expect("a port");
    let (code, said) = as_demo(server.address(), &["--json", "--try"]);
    let report = json(&said);
    assert_eq!(code, 0);
    for (name, expected) in
        [("verdict", "works"), ("strategy", "copy"), ("host", "127.0.0.1"), ("user", "demo")]
    {
        assert_eq!(report[name], *expected, "{said}");
    }
    assert_eq!(report["port"], server.address().port());
    assert_eq!(report["tls"]["mode"], "off");
    assert!(report["round_trip_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{said}");
    let list = report["capabilities"]["after_login"].as_array().expect("a list");
    assert!(list.iter().any(|token| token == "UIDPLUS"), "{said}");
    let checks = report["try"]["checks"].as_array().expect("a list");
    assert!(checks.len() == 7 && checks.iter().all(|check| check["right"] == true), "{said}");
    assert_eq!(report["try"]["left_behind"].as_array().map(Vec::len), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_user_it_looks_at_what_is_before_the_login() {
    let server = Server::start().await.expect("a port");
    let (code, said) = shown(&[&format!("imap://{}", server.address()), "--json"]);
    let report = json(&said);
    assert_eq!((code, &report["strategy"]), (0, &"copy".into()));
    assert!(report["reason"].as_str().is_some_and(|why| why.ends_with("name a user to be sure.")), "{said}");
    assert!(report["capabilities"]["after_login"].is_null());
    let asked = format!("{:?}", server.said());
    assert!(asked.contains("CAPABILITY") && !asked.contains("LOGIN"), "{asked}");

    let without = Tap::start_hiding(server.address(), &[("UIDPLUS", "UIDPLUX")]);
    let (code, said) = shown(&[&format!("imap://{}", without.address), "--json"]);
    assert_eq!((code, &json(&said)["verdict"]), (2, &"unknown".into()), "it may be listed after the login");
}

/// CAP-4: and nothing is made where nothing can be tried.
#[tokio::test(flavor = "multi_thread")]
async fn without_uidplus_it_says_no_and_why() {
    let server = Server::start().await.expect("a port");
    let tap = Tap::start_hiding(server.address(), &[("UIDPLUS", "UIDPLUX")]);
    let (code, said) = as_demo(tap.address, &["--try"]);
    assert!(code == 1 && said.contains("\nMOVE will not work.\nThe server has no UIDPLUS"), "{said}");
    assert!(!tap.commands().iter().any(|command| command.starts_with("CREATE")), "{:?}", tap.commands());
}

/// MOVE-6, MOVE-11, CAP-5: what the gateway then does is what is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_servers_quirks_are_found() {
    let server = Server::start().await.expect("a port");
    let before = mailboxes(server.address());
    let table: [(Words, i32, &str); 3] = [
        (&[("COPYUID", "COPYUIX")], 1, "no_copyuid"),
        (&[(" EXPUNGE\r", " EXPUNGX\r")], 0, "silent_expunge"),
        (&[("[CAPABILITY", "[CAPABILITX")], 0, "no_list_at_login"),
    ];
    for (words, expected, quirk) in table {
        let tap = Tap::start_hiding(server.address(), words);
        let (code, said) = as_demo(tap.address, &["--try", "--json"]);
        assert_eq!((code, quirks(&json(&said))), (expected, vec![quirk]), "{said}");
        assert_eq!(mailboxes(server.address()), before);
    }
}

/// Exit code 2 and one line.
fn refusal(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("runs");
    let said = text(&stderr);
    assert_eq!((status.code(), text(&stdout).as_str(), said.lines().count()), (Some(2), "", 1), "{said}");
    said.trim_end().strip_prefix("imapmove: ").expect("says who complains").to_string()
}

#[test]
fn bad_arguments_get_one_line() {
    const FORM: &str = "expected imap://[USER@]HOST[:PORT] or imaps://[USER@]HOST[:PORT]";
    let (two, none) = (PasswordFile::new(b"one\ntwo\n"), PasswordFile::new(b"\n"));
    #[rustfmt::skip]
    let table: &[(&[&str], String)] = &[
        (&[], format!("command line: <URL> not given, {FORM}")),
        (&["mail.example.org"], format!("probe: given \"mail.example.org\", {FORM}")),
        (&["imap://alice:secret@mail"], "probe: expected no password in the URL: ".into()),
        (&["imap://mail", "--password=secret"], "command line: given \"--password\", expected a flag".into()),
        (&["imap://mail", "--try"], "try: expected a user in the URL".into()),
        (&["imap://mail", "--password-file", "x"], "password-file: expected a user in the URL".into()),
        (&["imap://a@127.0.0.1", "--password-file", "/none"], "password-file: given \"/none\", expected a file that can be read: ".into()),
        (&["imap://a@127.0.0.1", "--password-file", &two.path], format!("password-file: given {:?}, expected one line", two.path)),
        (&["imap://a@127.0.0.1", "--password-file", &none.path], format!("password-file: given {:?}, expected one line", none.path)),
        (&["imaps://mail", "--upstream-tls", "off"], "upstream-tls: expected implicit or nothing with imaps://".into()),
        (&["imap://mail", "--upstream-tls", "implicit"], "upstream-tls: expected imaps:// in the URL".into()),
        (&["imap://mail", "--upstream-tls", "tls"], "upstream-tls (flag --upstream-tls): given \"tls\", expected".into()),
        (&["imaps://mail", "--upstream-ca", "/none"], "upstream-ca (flag --upstream-ca): given \"/none\", expected a PEM file".into()),
        (&["imap://127.0.0.1", "--max-line", "1"], "max-line (flag --max-line): given \"1\", expected".into()),
        (&["imap://127.0.0.1", "--listen", "127.0.0.1:0"], "command line: given \"--listen\", expected".into()),
    ];
    for (arguments, expected) in table {
        let said = refusal(probe(arguments));
        assert!(said.starts_with(expected), "{arguments:?}\n said: {said}\nnot: {expected}");
        assert!(!said.contains("secret"), "{said}");
    }
}

/// `setsid`: no terminal to ask on.
#[test]
fn without_a_terminal_a_file_must_say_the_password() {
    let mut command = Command::new("setsid");
    command
        .args(["-w", env!("CARGO_BIN_EXE_imapmove"), "probe", "imap://a@127.0.0.1:1"])
        .stdin(Stdio::null());
    let said = refusal(command);
    assert!(said.starts_with("password: expected a terminal to ask on, or --password-file FILE: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_line_is_not_in_the_password() {
    let server = Server::start().await.expect("a port");
    let url = format!("imap://demo@{}", server.address());
    for (content, expected) in [("demo", 0), ("demo\n", 0), ("demo\r\n", 0), ("demo ", 2), (" demo\n", 2)] {
        let file = PasswordFile::new(content.as_bytes());
        let (code, said) = shown(&[&url, "--password-file", &file.path]);
        assert_eq!(code, expected, "{content:?}: {said}");
    }
}

#[test]
fn what_cannot_be_reached_is_not_known() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let (code, said) = shown(&[&format!("imap://{free}")]);
    let why = "\nWhether MOVE will work could not be found out.\n127.0.0.1:P cannot be reached: ";
    assert!(code == 2 && timeless(&said, free).contains(why), "{said}");
    let (code, said) = shown(&[&format!("imap://{free}"), "--json"]);
    assert_eq!((code, &json(&said)["verdict"]), (2, &"unknown".into()));
}

/// A server that says so for each command of one session, with the command's tag and line in place of TAG and LINE.
fn play(greeting: &'static str, answer: fn(&str) -> &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(greeting.as_bytes());
            let lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
            let mut tag = String::new();
            for line in lines.map_while(Result::ok) {
                // What follows a `+` has none.
                let command = line.split_once(' ').map(|(new, command)| {
                    tag = new.to_string();
                    command
                });
                let said = answer(command.unwrap_or(&line)).replace("TAG", &tag).replace("LINE", &line);
                let _ = stream.write_all(said.as_bytes());
            }
        }
    });
    address
}

/// They repeat what they refuse, and send a terminal commands.
#[test]
fn the_password_is_never_shown_and_no_octet_of_a_servers_reaches_the_terminal() {
    let login = play("* OK \x1b[2J hello\r\n", |command| match command {
        "CAPABILITY" => "* CAPABILITY IMAP4rev1 UIDPLUS\r\nTAG OK\r\n",
        _ => "TAG NO I do not know LINE \x1b]0;x\x07\r\n",
    });
    let plain = play("* OK hello\r\n", |command| match command {
        "CAPABILITY" => "* CAPABILITY IMAP4rev1 UIDPLUS LOGINDISABLED AUTH=PLAIN\r\nTAG OK\r\n",
        "AUTHENTICATE PLAIN" => "+ \r\n",
        _ => "TAG NO I do not know LINE \x1b]0;x\x07\r\n",
    });
    let file = PasswordFile::new(b"open\\sesame\n");
    for address in [login, plain] {
        for format in [&[][..], &["--json"]] {
            let url = format!("imap://alice@{address}");
            let (code, said) = shown(&[&[&url, "--password-file", &file.path], format].concat());
            assert_eq!(code, 2);
            let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.contains("The login was refused: NO I do not know"), "{said}");
            assert!(words.contains("(the password)"), "{said}");
            // "\0alice\0open\\sesame" in base64
            assert!(!said.contains("sesame") && !said.contains("AGFsaWNlAG9wZW5cc2VzYW1l"), "{said}");
            assert!(!said.contains('\x1b'), "{said}");
        }
    }
}

#[test]
fn what_is_no_mail_server_is_not_waited_for() {
    for (greeting, expected) in [
        ("220 mail ESMTP\r\n", "What answers there does not speak IMAP"),
        ("* BYE Too many\r\n", "The server turns us away: * BYE Too many"),
        ("* PREAUTH hello\r\n", "(PREAUTH)"),
    ] {
        let address = play(greeting, |_| "TAG NO\r\n");
        let (code, said) = shown(&[&format!("imap://{address}")]);
        assert!(code == 2 && said.contains(expected), "{said}");
    }
}
