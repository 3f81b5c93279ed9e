//! The demo's server as clients see it, and the demo itself.

use imapmove::demo::{Said, Server};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(10);

struct Client(BufStream<TcpStream>);

impl Client {
    async fn connect(server: &Server) -> Client {
        Client::connect_to(&server.address().to_string()).await
    }

    async fn connect_to(address: &str) -> Client {
        let mut client = Client(BufStream::new(TcpStream::connect(address).await.expect("connects")));
        assert!(client.line().await.starts_with("* OK [CAPABILITY IMAP4rev1 "));
        client
    }

    /// Logged in, and with INBOX selected.
    async fn in_inbox(server: &Server) -> Client {
        let mut client = Client::connect(server).await;
        assert!(client.ask("l LOGIN demo demo").await[0].starts_with("l OK [CAPABILITY "));
        assert_eq!(
            client.ask("s SELECT INBOX").await.last().expect("an answer"),
            "s OK [READ-WRITE] SELECT completed"
        );
        client
    }

    async fn send(&mut self, octets: &str) {
        self.0.write_all(octets.as_bytes()).await.expect("writes");
        self.0.flush().await.expect("flushes");
    }

    /// One line with the literals in it, without the last CRLF; empty at the end of file.
    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.read_line()).await.expect("an answer in time")
    }

    async fn read_line(&mut self) -> String {
        let mut line = String::new();
        loop {
            self.0.read_line(&mut line).await.expect("reads a line");
            let text = line.trim_end_matches("\r\n").to_owned();
            let announced = text.strip_suffix('}').and_then(|text| text.rsplit_once('{'));
            let Some((_, length)) = announced else { return text };
            let mut literal = vec![0; length.parse().expect("a length")];
            self.0.read_exact(&mut literal).await.expect("reads a literal");
            line.push_str(&String::from_utf8(literal).expect("text"));
        }
    }

    /// Everything up to the tagged answer, or to `+`.
    async fn answer(&mut self, tag: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await;
            assert!(!line.is_empty(), "the connection ended after {lines:?}");
            let last = line.starts_with('+') || line.split(' ').next() == Some(tag);
            lines.push(line);
            if last {
                return lines;
            }
        }
    }

    async fn ask(&mut self, command: &str) -> Vec<String> {
        self.send(&format!("{command}\r\n")).await;
        self.answer(command.split(' ').next().expect("a tag")).await
    }

    /// Plays commands and what they must bring; a UIDVALIDITY, the only number with ten digits, is V.
    async fn play(&mut self, conversation: &[(&str, &[&str])]) {
        for (command, expected) in conversation {
            assert_eq!(without_validity(self.ask(command).await), *expected, "after {command}");
        }
    }
}

fn without_validity(lines: Vec<String>) -> Vec<String> {
    let masked = |line: &String| {
        let numbers = line.split(|letter: char| !letter.is_ascii_digit());
        let validity = numbers.filter(|number| number.len() == 10).map(str::to_owned).next();
        validity.map_or(line.clone(), |validity| line.replace(&validity, "V"))
    };
    lines.iter().map(masked).collect()
}

const MESSAGE: &str =
    "From: Eve <eve@example.org>\r\nSubject: Cats\r\nDate: Tue, 2 Jul 2024 08:00:00 +0200\r\n\r\nMeow.\r\n";

#[tokio::test]
async fn before_the_login_little_is_possible() {
    let server = Server::start().await.expect("starts");
    let mut client = Client::connect(&server).await;
    let failed = "NO [AUTHENTICATIONFAILED] The login is demo, password demo";
    client
        .play(&[
            ("a NOOP", &["a OK NOOP completed"]),
            ("b SELECT INBOX", &["b BAD No such command before the login"]),
            ("c LOGIN demo wrong", &[&format!("c {failed}")]),
            ("d LOGIN demo", &["d BAD A space was expected"]),
            ("e AUTHENTICATE GSSAPI", &["e NO [CANNOT] Only PLAIN is known here"]),
            ("f AUTHENTICATE PLAIN AGRlbW8Ad3Jvbmc=", &[&format!("f {failed}")]),
            ("g AUTHENTICATE PLAIN", &["+ "]),
        ])
        .await;
    client.send("*\r\n").await;
    assert_eq!(client.answer("g").await, ["g BAD AUTHENTICATE cancelled"]);
    client.ask("h AUTHENTICATE PLAIN").await;
    client.send("AGRlbW8AZGVtbw==\r\n").await;
    assert!(client.answer("h").await[0].starts_with("h OK [CAPABILITY "));
    client
        .play(&[
            ("i LOGIN demo demo", &["i BAD You are logged in"]),
            ("j LOGOUT", &["* BYE See you", "j OK LOGOUT completed"]),
        ])
        .await;
    assert_eq!(client.line().await, "", "the server closes");
    let asked =
        |said: &Said| matches!(said, Said::Asked(line) if line.contains("wrong") || line.contains("AGR"));
    assert!(!server.said().iter().any(asked), "no credential is remembered");
}

#[tokio::test]
async fn a_login_may_come_at_once_and_in_literals() {
    let server = Server::start().await.expect("starts");
    let mut client = Client::connect(&server).await;
    assert!(client.ask("a AUTHENTICATE PLAIN AGRlbW8AZGVtbw==").await[0].starts_with("a OK "));
    let mut client = Client::connect(&server).await;
    assert_eq!(client.ask("a LOGIN {4}").await, ["+ Go on"]);
    assert_eq!(client.ask("demo {4}").await, ["+ Go on"]);
    client.send("demo\r\n").await;
    assert!(client.answer("a").await[0].starts_with("a OK "));
}

#[tokio::test]
async fn it_is_an_old_server() {
    let server = Server::start().await.expect("starts");
    let mut client = Client::in_inbox(&server).await;
    let capabilities = client.ask("a CAPABILITY").await.remove(0);
    assert!(capabilities.contains(" UIDPLUS") && !capabilities.contains("MOVE"), "{capabilities}");
    client
        .play(&[
            ("b MOVE 1 Archive", &["b BAD No such command"]),
            ("c UID MOVE 1 Archive", &["c BAD No such UID command"]),
            ("d UID", &["d BAD A space was expected"]),
            ("e", &["e BAD A space was expected"]),
            ("f STARTTLS", &["f BAD No such command"]),
        ])
        .await;
    client.send("\r\n").await;
    assert_eq!(client.line().await, "* BAD A tag was expected");
}

#[tokio::test]
async fn mailboxes_come_and_go() {
    let server = Server::start().await.expect("starts");
    let mut client = Client::in_inbox(&server).await;
    let none = r#"* LIST (\HasNoChildren) "/""#;
    client
        .play(&[
            ("a CREATE Work/2026", &["a OK CREATE completed"]),
            ("b CREATE INBOX", &["b NO [ALREADYEXISTS] There is such a mailbox"]),
            (
                "c LIST \"\" W*",
                &[
                    r#"* LIST (\HasChildren) "/" "Work""#,
                    &format!("{none} \"Work/2026\""),
                    "c OK LIST completed",
                ],
            ),
            ("d RENAME Work Done", &["d OK RENAME completed"]),
            ("e UNSUBSCRIBE Done", &["e OK UNSUBSCRIBE completed"]),
            ("f LSUB \"\" D*", &[r#"* LSUB (\HasNoChildren) "/" "Done/2026""#, "f OK LSUB completed"]),
            ("g DELETE Done/2026", &["g OK DELETE completed"]),
            ("h LIST Do %", &[&format!("{none} \"Done\""), "h OK LIST completed"]),
            ("i DELETE Nowhere", &["i NO [NONEXISTENT] No such mailbox"]),
            ("j LIST \"\" \"\"", &[r#"* LIST (\Noselect) "/" """#, "j OK LIST completed"]),
            ("k LIST \"\" inbox", &[&format!("{none} \"INBOX\""), "k OK LIST completed"]),
            ("l NAMESPACE", &[r#"* NAMESPACE (("" "/")) NIL NIL"#, "l OK NAMESPACE completed"]),
            (
                "m STATUS inbox (MESSAGES UNSEEN UIDNEXT UIDVALIDITY RECENT)",
                &[
                    "* STATUS \"INBOX\" (MESSAGES 4 UNSEEN 1 UIDNEXT 5 UIDVALIDITY V RECENT 0)",
                    "m OK STATUS completed",
                ],
            ),
            ("n STATUS INBOX (SIZE)", &["n BAD No such STATUS item"]),
            ("o CREATE a//b", &["o NO [CANNOT] That is no name for a mailbox here"]),
            ("p ID NIL", &["* ID (\"name\" \"imapmove demo server\")", "p OK ID completed"]),
        ])
        .await;
}

#[tokio::test]
async fn selecting_says_what_is_there() {
    let server = Server::start().await.expect("starts");
    let mut client = Client::in_inbox(&server).await;
    let select = [
        "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)",
        "* 4 EXISTS",
        "* 0 RECENT",
        "* OK [UNSEEN 4] First unseen",
        "* OK [PERMANENTFLAGS ()] What can be changed",
        "* OK [UIDVALIDITY V] UIDs are valid",
        "* OK [UIDNEXT 5] Next UID",
        "a OK [READ-ONLY] EXAMINE completed",
    ];
    let read_only = "NO [READ-ONLY] The mailbox was opened with EXAMINE";
    client
        .play(&[
            ("a EXAMINE inbox", &select),
            ("b STORE 1 FLAGS ()", &[&format!("b {read_only}")]),
            ("c EXPUNGE", &[&format!("c {read_only}")]),
            ("d UNSELECT", &["d OK UNSELECT completed"]),
            ("e FETCH 1 UID", &["e BAD Select a mailbox first"]),
            ("f SELECT Nowhere", &["f NO [NONEXISTENT] No such mailbox"]),
        ])
        .await;
    client.ask("g SELECT INBOX").await;
    client
        .play(&[
            ("h SELECT Nowhere", &["h NO [NONEXISTENT] No such mailbox"]),
            ("i CLOSE", &["i BAD Select a mailbox first"]),
        ])
        .await;
}

#[tokio::test]
async fn messages_are_appended_and_read() {
    let server = Server::start().await.expect("starts");
    let mut client = Client::in_inbox(&server).await;
    let announced = MESSAGE.len();
    let append =
        format!("a APPEND Trash (\\seen Fun) \" 2-Jul-2024 09:00:00 +0200\" {{{announced}+}}\r\n{MESSAGE}");
    client.play(&[(&append, &["a OK [APPENDUID V 1] APPEND completed"])]).await;
    client.ask("b SELECT Trash").await;
    let header =
        "From: Eve <eve@example.org>\r\nSubject: Cats\r\nDate: Tue, 2 Jul 2024 08:00:00 +0200\r\n\r\n";
    let eve = r#"(("Eve" NIL "eve" "example.org"))"#;
    let envelope = format!(
        r#"ENVELOPE ("Tue, 2 Jul 2024 08:00:00 +0200" "Cats" {eve} {eve} {eve} NIL NIL NIL NIL NIL)"#
    );
    let structure = r#"("text" "plain" ("charset" "us-ascii") NIL NIL "8bit" 7 1"#;
    let all =
        format!("FLAGS (Fun \\Seen) INTERNALDATE \" 2-Jul-2024 09:00:00 +0200\" RFC822.SIZE {announced}");
    let done = |tag: &str| format!("{tag} OK FETCH completed");
    client
        .play(&[
            ("a fetch 1 fast", &[&format!("* 1 FETCH ({all})"), &done("a")]),
            ("b FETCH 1 FULL", &[&format!("* 1 FETCH ({all} {envelope} BODY {structure}))"), &done("b")]),
            (
                "c UID FETCH 1:* BODYSTRUCTURE",
                &[&format!("* 1 FETCH (UID 1 BODYSTRUCTURE {structure} NIL NIL NIL NIL))"), &done("c")],
            ),
            (
                "d FETCH 1 (BODY.PEEK[])",
                &[&format!("* 1 FETCH (BODY[] {{{announced}}}\r\n{MESSAGE})"), &done("d")],
            ),
            (
                "e FETCH 1 BODY[HEADER]",
                &[&format!("* 1 FETCH (BODY[HEADER] {{{}}}\r\n{header})", header.len()), &done("e")],
            ),
            ("f FETCH 1 RFC822.TEXT", &["* 1 FETCH (RFC822.TEXT {7}\r\nMeow.\r\n)", &done("f")]),
            (
                "g FETCH 1 BODY[HEADER.FIELDS (Subject)]<2.6>",
                &["* 1 FETCH (BODY[HEADER.FIELDS (Subject)]<2> {6}\r\nbject:)", &done("g")],
            ),
            ("h FETCH 1 BODY[1]<5.99>", &["* 1 FETCH (BODY[1]<5> {2}\r\n\r\n)", &done("h")]),
            ("i FETCH 2 UID", &["i BAD There is no message with such a number"]),
            ("j UID FETCH 7 FLAGS", &[&done("j")]),
            ("k FETCH 1 (UID", &["k BAD A space was expected"]),
            ("l FETCH 1 COLOUR", &["l BAD No such FETCH item"]),
        ])
        .await;
}

#[tokio::test]
async fn reading_sets_seen_and_peeking_does_not() {
    let server = Server::start().await.expect("starts");
    let mut client = Client::in_inbox(&server).await;
    let text = "Noon, the usual place?\r\n\r\nI have news about the garden.\r\nGrace\r\n";
    let answer = |label: &str| format!("* 4 FETCH ({label} {{{}}}\r\n{text})", text.len());
    client
        .play(&[
            ("a FETCH 4 BODY.PEEK[TEXT]", &[&answer("BODY[TEXT]"), "a OK FETCH completed"]),
            (
                "b FETCH 4 BODY[TEXT]",
                &[&answer("BODY[TEXT]"), "* 4 FETCH (UID 4 FLAGS (\\Seen))", "b OK FETCH completed"],
            ),
            ("c FETCH 4 BODY[TEXT]", &[&answer("BODY[TEXT]"), "c OK FETCH completed"]),
        ])
        .await;
}

#[tokio::test]
async fn searching_finds() {
    let server = Server::start().await.expect("starts");
    let mut client = Client::in_inbox(&server).await;
    let append = format!(
        "a APPEND INBOX (Fun \\Deleted) \" 2-Jul-2024 09:00:00 +0200\" {{{}+}}\r\n{MESSAGE}",
        MESSAGE.len()
    );
    client.ask(&append).await;
    let found = [
        ("ALL", " 1 2 3 4 5"),
        ("UNSEEN UNDELETED", " 4"),
        ("DELETED", " 5"),
        ("FLAGGED", " 3"),
        ("UID 2:3,9:*", " 2 3 5"),
        ("2:3", " 2 3"),
        ("FROM grace", " 4"),
        ("SUBJECT \"lunch\"", " 4"),
        ("HEADER Message-ID 2.demo", " 2"),
        ("TEXT roof", " 3"),
        ("BODY eve", ""),
        ("KEYWORD Fun", " 5"),
        ("BEFORE 3-Jul-2024", " 5"),
        ("SINCE 3-Jul-2024 NOT 1:2", " 3 4"),
        ("SENTON 2-Jul-2024", " 5"),
        ("OR FLAGGED (DELETED UNSEEN)", " 3 5"),
        ("CHARSET UTF-8 ON 2-Jul-2024 LARGER 10 SMALLER 1000", " 5"),
        ("NEW", ""),
    ];
    for (keys, numbers) in found {
        let expected = [format!("* SEARCH{numbers}"), "a OK SEARCH completed".to_owned()];
        assert_eq!(client.ask(&format!("a SEARCH {keys}")).await, expected, "{keys}");
    }
    client
        .play(&[
            ("a SEARCH COLOUR red", &["a BAD No such SEARCH key"]),
            ("b SEARCH CHARSET X ALL", &["b NO [BADCHARSET (US-ASCII UTF-8)] No such charset"]),
            ("c SEARCH", &["c BAD A space was expected"]),
            (&format!("d SEARCH {}ALL", "NOT ".repeat(500)), &["d BAD These keys are nested too deeply"]),
        ])
        .await;
}

#[tokio::test]
async fn a_message_is_moved_as_the_gateway_does_it() {
    let server = Server::start().await.expect("starts");
    let mut client = Client::in_inbox(&server).await;
    client
        .play(&[
            ("a STORE 1 +FLAGS \\Deleted", &["* 1 FETCH (FLAGS (\\Deleted \\Seen))", "a OK STORE completed"]),
            ("b UID COPY 2:3,77 Archive", &["b OK [COPYUID V 2:3 2:3] COPY completed"]),
            ("c UID COPY 77 Archive", &["c OK COPY found no messages"]),
            ("d UID COPY 2 Nowhere", &["d NO [TRYCREATE] No such mailbox"]),
            ("e UID STORE 2:3 +FLAGS.SILENT (\\Deleted)", &["e OK STORE completed"]),
            ("f UID EXPUNGE 2:3", &["* 2 EXPUNGE", "* 2 EXPUNGE", "f OK EXPUNGE completed"]),
            ("g UID SEARCH DELETED", &["* SEARCH 1", "g OK SEARCH completed"]),
            ("h STORE 1 -FLAGS (\\Deleted)", &["* 1 FETCH (FLAGS (\\Seen))", "h OK STORE completed"]),
            ("i EXPUNGE", &["i OK EXPUNGE completed"]),
            ("j COPY 1 INBOX", &["* 3 EXISTS", "j OK [COPYUID V 1 5] COPY completed"]),
            ("k STORE 3 FLAGS.SILENT (\\Deleted \\Recent)", &["k BAD No such system flag"]),
        ])
        .await;
}

#[tokio::test]
async fn two_sessions_see_each_other_by_the_rules() {
    let server = Server::start().await.expect("starts");
    let (mut one, mut two) = (Client::in_inbox(&server).await, Client::in_inbox(&server).await);
    assert_eq!(two.ask("i IDLE").await, ["+ idling"]);
    one.play(&[("a STORE 2 +FLAGS.SILENT (\\Deleted)", &["a OK STORE completed"])]).await;
    assert_eq!(two.line().await, "* 2 FETCH (UID 2 FLAGS (\\Deleted \\Seen))");
    one.play(&[("b COPY 1 INBOX", &["* 5 EXISTS", "b OK [COPYUID V 1 5] COPY completed"])]).await;
    assert_eq!(two.line().await, "* 5 EXISTS");
    two.send("DONE\r\n").await;
    assert_eq!(two.answer("i").await, ["i OK IDLE completed"]);
    one.play(&[("c EXPUNGE", &["* 2 EXPUNGE", "c OK EXPUNGE completed"])]).await;
    two.play(&[
        ("j FETCH 2:3 UID", &["* 3 FETCH (UID 3)", "j OK FETCH completed"]),
        ("k STORE 3 +FLAGS.SILENT (Fun)", &["k OK STORE completed"]),
        ("l SEARCH UID 3", &["* SEARCH 3", "l OK SEARCH completed"]),
        ("m UID SEARCH UID 3", &["* SEARCH 3", "* 2 EXPUNGE", "m OK SEARCH completed"]),
        ("n SEARCH UID 3", &["* SEARCH 2", "n OK SEARCH completed"]),
    ])
    .await;
}

#[tokio::test]
async fn a_mailbox_that_goes_away_under_a_session_is_refused() {
    let server = Server::start().await.expect("starts");
    let (mut one, mut two) = (Client::in_inbox(&server).await, Client::in_inbox(&server).await);
    one.ask("a SELECT Trash").await;
    two.ask("a DELETE Trash").await;
    two.ask("b CREATE Trash").await;
    let gone = "NO [NONEXISTENT] The selected mailbox is gone";
    one.play(&[
        ("b NOOP", &["b OK NOOP completed"]),
        ("c UID FETCH 1 FLAGS", &[&format!("c {gone}")]),
        ("d UNSELECT", &["d OK UNSELECT completed"]),
    ])
    .await;
}

#[tokio::test]
async fn commands_may_be_pipelined() {
    let server = Server::start().await.expect("starts");
    let mut client = Client::in_inbox(&server).await;
    let literal = "b COPY 1 {7+}\r\nArchive\r\n";
    client.send(&format!("a NOOP\r\n{literal}c IDLE\r\nDONE\r\nd UID FETCH 1 FLAGS\r\n")).await;
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.starts_with("d ")) {
        lines.push(client.line().await);
    }
    let expected = [
        "a OK NOOP completed",
        "b OK [COPYUID V 1 2] COPY completed",
        "+ idling",
        "c OK IDLE completed",
        "* 1 FETCH (UID 1 FLAGS (\\Seen))",
        "d OK FETCH completed",
    ];
    assert_eq!(without_validity(lines), expected);
    let said = server.said();
    let asked =
        said.iter().filter_map(|said| if let Said::Asked(line) = said { Some(line.as_str()) } else { None });
    let expected = [
        "l LOGIN ...",
        "s SELECT INBOX",
        "a NOOP",
        "b COPY 1 {7+}\r\nArchive",
        "c IDLE",
        "d UID FETCH 1 FLAGS",
    ];
    assert_eq!(asked.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let server = Server::start().await.expect("starts");
    let mut client = Client::in_inbox(&server).await;
    client
        .play(&[
            ("a APPEND INBOX {99999999}", &["a NO [LIMIT] That literal is too large"]),
            ("b APPEND INBOX {99999999999999999999}", &["b NO [LIMIT] That literal is too large"]),
            ("c NOOP", &["c OK NOOP completed"]),
        ])
        .await;
    client.send("d APPEND INBOX {99999999+}\r\n").await;
    assert_eq!(client.line().await, "* BYE That literal is too large");
    assert_eq!(client.line().await, "");
    let mut client = Client::connect(&server).await;
    client.send(&"x".repeat((64 << 10) + 1)).await;
    assert_eq!(client.line().await, "* BYE That line is too long");
}

#[tokio::test]
async fn too_many_clients_are_turned_away_until_one_leaves() {
    let server = Server::start().await.expect("starts");
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(Client::connect(&server).await);
    }
    let mut late = Client(BufStream::new(TcpStream::connect(server.address()).await.expect("connects")));
    assert_eq!(late.line().await, "* BYE Too many clients for a demo");
    clients[0].ask("a LOGOUT").await;
    assert_eq!(clients[0].line().await, "", "the server closes");
    Client::connect(&server).await;
}

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imapmove"));
    command.arg("demo").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn the_demo_takes_no_settings() {
    let demo =
        Command::new(env!("CARGO_BIN_EXE_imapmove")).args(["--upstream", "localhost:143", "demo"]).output();
    let Output { status, stderr, .. } = demo.expect("runs");
    let said = "imapmove: command line: given \"demo\", expected no setting before it\n";
    assert_eq!((status.code(), text(stderr).as_str()), (Some(2), said));
}

/// A running demo, which does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(octets: Vec<u8>) -> String {
    String::from_utf8(octets).expect("text")
}

#[test]
fn the_demo_shows_both_sides_and_checks_them() {
    let Output { status, stdout, stderr } = demo(&["--once"]).output().expect("runs");
    let shown = text(stdout);
    assert_eq!((status.code(), text(stderr).as_str()), (Some(0), ""), "{shown}");
    let asked: Vec<&str> = shown.lines().filter_map(|line| line.strip_prefix("  > ")).collect();
    for command in ["UID COPY 2,4 Archive", "UID STORE 2,4 +FLAGS.SILENT (\\Deleted)", "UID EXPUNGE 2,4"] {
        assert_eq!(asked.iter().filter(|line| line.ends_with(command)).count(), 1, "{command} in {shown}");
    }
    assert!(!asked.iter().any(|line| line.contains("MOVE")), "{shown}");
    let seen = shown
        .split("The client sees\n")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next())
        .expect("what the client sees");
    let seen: Vec<&str> = seen.lines().map(str::trim_start).collect();
    assert!(
        matches!(seen[..], [code, _, _, last] if code.starts_with("* OK [COPYUID ") && last.starts_with("d3 OK ")),
        "{shown}"
    );
    assert!(seen[1..3].iter().all(|line| line.ends_with(" EXPUNGE")), "{shown}");
    assert_eq!(shown.lines().filter(|line| line.starts_with("    ok     ")).count(), 5, "{shown}");
    let plain = |line: &str| line.chars().count() <= 80 && !line.contains('\x1b');
    assert!(shown.lines().all(plain), "no colours where no terminal is, and 80 columns: {shown}");
}

#[tokio::test]
async fn the_demo_stays_up_for_a_mail_client_until_it_is_interrupted() {
    let mut running = Running(demo(&[]).spawn().expect("runs"));
    // Kept to the end: a demo that can show nothing more ends.
    let mut shown = BufReader::new(running.0.stdout.take().expect("its output")).lines();
    let place = |line: &str| {
        let (ip, rest) = line.trim().strip_prefix("IMAP server ")?.split_once(", port ")?;
        let (port, rest) = rest.split_once(',')?;
        assert!(rest.ends_with("user demo, password demo"), "{line}");
        Some(format!("{ip}:{port}"))
    };
    let address = shown.find_map(|line| place(&line.expect("text"))).expect("says where it is");
    let mut client = Client::connect_to(&address).await;
    assert!(client.ask("a LOGIN demo demo").await.last().is_some_and(|line| line.starts_with("a OK ")));
    client.ask("b SELECT INBOX").await;
    let moved = client.ask("c UID MOVE 1 Archive").await;
    assert_eq!(moved[1], "* 1 EXPUNGE", "{moved:?}");
    assert!(moved[2].starts_with("c OK "), "{moved:?}");

    let interrupted = Command::new("sh").args(["-c", &format!("kill -s INT {}", running.0.id())]).status();
    assert!(interrupted.expect("kill runs").success());
    assert!(client.line().await.starts_with("* BYE "), "the client is told");
    drop(client);
    let ended = timeout(PATIENCE, tokio::task::spawn_blocking(move || running.0.wait()));
    assert_eq!(ended.await.expect("ends in time").expect("waits").expect("has a status").code(), Some(0));
}
