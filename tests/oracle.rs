//! imap-codec as an oracle: where it accepts a message, the gateway agrees about its tag, its kind and its boundary.
//!
//! What the gateway thinks shows in what it does. A command is sent, cut into single octets: it must go upstream as it came, a MOVE
//! behind it must be held for as long as it is in progress (so it was counted, and its end was found), and must start when
//! the server answers its tag (so that is the tag). A response is sent while a command is in progress: it must pass as it
//! came, and the tagged reply behind it must be found.

#[path = "support/played.rs"]
mod played;

use arbitrary::{Arbitrary, Unstructured};
use fastrand::Rng;
use imap_codec::encode::{Encoder, Fragment};
use imap_codec::imap_types::command::{Command, CommandBody};
use imap_codec::imap_types::core::LiteralMode;
use imap_codec::imap_types::response::{Data, Response, Status};
use imap_codec::{CommandCodec, ResponseCodec, decode::Decoder};
use imapmove::imap::{Settings, Side};
use played::{Cut, Played};

const MESSAGES: u64 = 16_000;

/// Messages that chance seldom makes, with lines in them that look like protocol.
const COMMANDS: [&[u8]; 8] = [
    b"a1 APPEND INBOX (\\Seen) {20}\r\nt1 OK\r\n* 3 EXPUNGE\r\n\r\n",
    b"a2 APPEND \"x y\" {11+}\r\nzz NOOP\r\n+\r\r\n",
    b"a3 RENAME {3}\r\na\"b {4+}\r\n{5}\n\r\n",
    b"a4 SEARCH CHARSET UTF-8 TEXT {6}\r\n\xd0\x90{3}\n OR SEEN SUBJECT {0}\r\n\r\n",
    b"[x] LIST \"\" \"{3}\"\r\n",
    b"a6 UID FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (\"X{3}\")])\r\n",
    b"a7 UID MOVE 2:1,1 {7+}\r\nArchive\r\n",
    b"a8 MOVE 3:1,2 \"Old \\\"mail\\\"\"\r\n",
];

const RESPONSES: [&[u8]; 8] = [
    b"* 1 FETCH (UID 1 BODY[] {20}\r\nt1 OK\r\n* 3 EXPUNGE\r\n FLAGS (\\Seen))\r\n",
    b"* 2 FETCH (BODY[1] {0}\r\n BODY[2] \"{3}\" BODY[TEXT] {9}\r\n* 9 {3}\r\n)\r\n",
    b"* LIST () \"/\" {8}\r\nt1 OK\r\n{\r\n",
    b"* OK [ALERT] read this {310}\r\n",
    b"+ ready {12}\r\n",
    b"* SEARCH 1 2 3\r\n",
    b"* 12 EXISTS\r\n",
    b"t9 NO [TRYCREATE] never asked for {3}\r\n",
];

fn noise(seed: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    (0..2048).map(|_| rng.u8(..)).collect()
}

fn random<'a, T: Arbitrary<'a>>(noise: &'a [u8]) -> Option<T> {
    T::arbitrary(&mut Unstructured::new(noise)).ok()
}

fn selected() -> Played {
    let mut played = Played::selected(Settings::default(), Cut::Every(1), "LITERAL+ BINARY IDLE");
    played.forget();
    played
}

fn shown(octets: &[u8]) -> String {
    octets.escape_ascii().to_string()
}

// ---- commands ---------------------------------------------------------------------------------------------------------

/// What the gateway does with a command, told from the oracle's kind.
#[derive(Debug, PartialEq)]
enum Kind {
    /// Passes; nothing else is special about it.
    Plain,
    /// Passes, and changes what state the session is in.
    State,
    /// Is answered by the gateway.
    Answered,
    Move,
    Idle,
    /// Is answered at its first `{n+}`; both legs close if something went upstream.
    Refused,
}

fn kind(body: &CommandBody, fragments: &[Fragment]) -> Kind {
    let at_once = |f: &Fragment| matches!(f, Fragment::Literal { mode: LiteralMode::NonSync, .. });
    match body {
        // The user has logged in: Dovecot would skip the line and carry out the literal.
        CommandBody::Login { .. } if fragments.iter().any(at_once) => Kind::Refused,
        CommandBody::Move { .. } => Kind::Move,
        CommandBody::Idle => Kind::Idle,
        CommandBody::Compress { .. } => Kind::Answered,
        CommandBody::Authenticate { .. } | CommandBody::Login { .. } | CommandBody::Logout => Kind::State,
        CommandBody::Select { .. }
        | CommandBody::Examine { .. }
        | CommandBody::Close
        | CommandBody::Unselect => Kind::State,
        _ => Kind::Plain,
    }
}

#[test]
fn commands_have_the_same_tag_kind_and_boundary() {
    let mut agreed = 0;
    for seed in 0..MESSAGES {
        let noise = noise(seed);
        if let Some(command) = random::<Command>(&noise) {
            agreed += u64::from(check_command(&command, &format!("seed {seed}")));
        }
    }
    assert!(agreed > MESSAGES / 10, "only {agreed} of {MESSAGES} were accepted by the oracle");
    for corpus in COMMANDS {
        let (_, command) = CommandCodec::default().decode(corpus).expect("the oracle accepts the corpus");
        assert!(check_command(&command, "corpus"), "{}", shown(corpus));
    }
}

/// Whether the oracle accepts what it wrote itself; then the gateway must agree.
fn check_command(command: &Command, what: &str) -> bool {
    let fragments: Vec<Fragment> = CommandCodec::default().encode(command).collect();
    let whole = octets(&fragments);
    let accepted = CommandCodec::default().decode(&whole).is_ok_and(|(rest, _)| rest.is_empty());
    let tag = command.tag.inner().to_owned();
    if !accepted || tag == "zz" {
        return false;
    }
    if let Err(why) = command_agrees(&tag, kind(&command.body, &fragments), &fragments) {
        panic!("{what}: {why}\n{}\n{command:?}", shown(&whole));
    }
    true
}

fn octets(fragments: &[Fragment]) -> Vec<u8> {
    let octets = |fragment: &Fragment| match fragment {
        Fragment::Line { data } | Fragment::Literal { data, .. } => data.clone(),
    };
    fragments.iter().flat_map(octets).collect()
}

fn command_agrees(tag: &str, kind: Kind, fragments: &[Fragment]) -> Result<(), String> {
    let mut played = selected();
    let mut upstream = Vec::new();
    for (at, fragment) in fragments.iter().enumerate() {
        match fragment {
            Fragment::Line { data } => played.send(Side::Client, data),
            Fragment::Literal { data, mode } => {
                // of a MOVE's mailbox the gateway says the `+` itself
                if *mode == LiteralMode::Sync && kind != Kind::Move {
                    played.send(Side::Upstream, b"+ go\r\n");
                }
                played.send(Side::Client, data);
            }
        }
        upstream.extend(played.take(Side::Upstream));
        if kind == Kind::Plain && at + 1 < fragments.len() && upstream == octets(fragments) {
            return Err("it was complete before its end".into());
        }
    }
    played.take(Side::Client);
    let whole = octets(fragments);
    match kind {
        Kind::Move => is_translated(&upstream, tag, &mut played),
        Kind::Answered => expect("upstream", &upstream, b""),
        Kind::Refused => {
            expect("upstream", &upstream, &whole[..upstream.len()]).and_then(|()| {
                match upstream.len() < whole.len() {
                    true => Ok(()),
                    false => Err("all of it went upstream".into()),
                }
            })
        }
        Kind::State => expect("upstream", &upstream, &whole),
        Kind::Plain => {
            expect("upstream", &upstream, &whole)?;
            is_in_progress(&mut played, tag)
        }
        Kind::Idle => {
            expect("upstream", &upstream, &whole)?;
            played.send(Side::Client, b"DONE\r\n");
            expect("DONE before +", &played.take(Side::Upstream), b"")?;
            played.send(Side::Upstream, b"+ idling\r\n");
            expect("DONE after +", &played.take(Side::Upstream), b"DONE\r\n")?;
            played.take(Side::Client);
            is_in_progress(&mut played, tag)
        }
    }
}

fn expect(what: &str, found: &[u8], wanted: &[u8]) -> Result<(), String> {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{what}: {} instead of {}", shown(found), shown(wanted))),
    }
}

/// A MOVE behind it waits until its tag is answered.
fn is_in_progress(played: &mut Played, tag: &str) -> Result<(), String> {
    played.send(Side::Client, b"zz UID MOVE 1 Archive\r\n");
    expect("a MOVE while it is in progress", &played.take(Side::Upstream), b"")?;
    let reply = format!("{tag} OK done\r\n");
    played.send(Side::Upstream, reply.as_bytes());
    expect("its tagged reply", &played.take(Side::Client), reply.as_bytes())?;
    starts_the_move(played)
}

fn starts_the_move(played: &mut Played) -> Result<(), String> {
    let upstream = shown(&played.take(Side::Upstream));
    match upstream.contains(" UID COPY 1 Archive") {
        true => Ok(()),
        false => Err(format!("the MOVE behind it was not carried out: upstream {upstream}")),
    }
}

/// A MOVE never goes upstream: something else does, or the client has its answer already.
fn is_translated(upstream: &[u8], tag: &str, played: &mut Played) -> Result<(), String> {
    if upstream.to_ascii_uppercase().windows(6).any(|word| word == b" MOVE ")
        || upstream.starts_with(tag.as_bytes())
    {
        return Err(format!("upstream: {}", shown(upstream)));
    }
    played.send(Side::Client, b"zz NOOP\r\n");
    let behind = played.take(Side::Upstream);
    let answered = upstream.is_empty();
    match answered == behind.starts_with(b"zz NOOP") {
        true => Ok(()),
        false => Err(format!("behind the MOVE: {}", shown(&behind))),
    }
}

// ---- responses --------------------------------------------------------------------------------------------------------

#[test]
fn responses_have_the_same_tag_kind_and_boundary() {
    let mut agreed = 0;
    for seed in 0..MESSAGES {
        let noise = noise(seed);
        if let Some(response) = random::<Response>(&noise) {
            let whole = octets(&ResponseCodec::default().encode(&response).collect::<Vec<_>>());
            agreed += u64::from(check_response(&whole, &format!("seed {seed}")));
        }
    }
    assert!(agreed > MESSAGES / 4, "only {agreed} of {MESSAGES} were accepted by the oracle");
    for corpus in RESPONSES {
        assert!(check_response(corpus, "corpus"), "the oracle rejects {}", shown(corpus));
    }
}

/// Whether the oracle accepts it; then the gateway must agree.
fn check_response(whole: &[u8], what: &str) -> bool {
    let Ok((b"", response)) = ResponseCodec::default().decode(whole) else { return false };
    if let Err(why) = response_agrees(&response, whole) {
        panic!("{what}: {why}\n{}\n{response:?}", shown(whole));
    }
    true
}

fn response_agrees(response: &Response, whole: &[u8]) -> Result<(), String> {
    let mut played = selected();
    played.send(Side::Client, b"t1 NOOP\r\n");
    played.forget();
    played.send(Side::Upstream, whole);
    let has_list = whole.to_ascii_uppercase().windows(10).any(|word| word == b"CAPABILITY");
    let to_client = played.take(Side::Client);
    match response {
        Response::Status(Status::Bye(_)) => return Ok(()),
        // a tagged reply that nobody asked for: a MOVE is refused from then on (WIRE-1)
        Response::Status(Status::Tagged(tagged)) if tagged.tag.inner() != "t1" => {
            return refuses_a_move(&mut played);
        }
        _ if has_list => {}
        _ => expect("to the client", &to_client, whole)?,
    }
    played.send(Side::Upstream, b"t1 OK done\r\n");
    expect("the tagged reply behind it", &played.take(Side::Client), b"t1 OK done\r\n")?;
    expect("upstream", &played.take(Side::Upstream), b"")?;
    match response {
        Response::Data(Data::Exists(count)) => counts(&mut played, *count),
        Response::Data(Data::Expunge(number)) if number.get() <= 3 => counts(&mut played, 2),
        _ => decides(&mut played),
    }
}

fn refuses_a_move(played: &mut Played) -> Result<(), String> {
    played.send(Side::Upstream, b"t1 OK done\r\n");
    played.forget();
    played.send(Side::Client, b"zz UID MOVE 1 Archive\r\n");
    match played.take(Side::Client).starts_with(b"zz NO ") {
        true => expect("upstream", &played.take(Side::Upstream), b""),
        false => Err("a MOVE was not refused after a reply that nobody asked for".into()),
    }
}

/// A MOVE of the last message starts, of the one behind it does not.
fn counts(played: &mut Played, count: u32) -> Result<(), String> {
    if let Some(beyond) = count.checked_add(1) {
        played.send(Side::Client, format!("zz MOVE {beyond} Archive\r\n").as_bytes());
        let answer = played.take(Side::Client);
        if !answer.starts_with(b"zz BAD ") {
            return Err(format!("of {count} messages number {beyond} was moved: {}", shown(&answer)));
        }
    }
    if count == 0 {
        return Ok(());
    }
    played.send(Side::Client, format!("zz MOVE {count} Archive\r\n").as_bytes());
    let upstream = shown(&played.take(Side::Upstream));
    match upstream.contains(&format!(" FETCH {count} (UID)")) {
        true => Ok(()),
        false => Err(format!("of {count} messages the last was not moved: upstream {upstream}")),
    }
}

/// A MOVE is carried out or answered, not held.
fn decides(played: &mut Played) -> Result<(), String> {
    played.send(Side::Client, b"zz UID MOVE 1 Archive\r\n");
    let (upstream, answer) = (played.take(Side::Upstream), played.take(Side::Client));
    match upstream.is_empty() && !answer.starts_with(b"zz ") {
        true => Err("a MOVE behind it is neither carried out nor answered".into()),
        false => Ok(()),
    }
}
