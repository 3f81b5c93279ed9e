//! A canned IMAP server: as little work as can be, so that what is measured is what stands before it.
//!
//! `FETCH 1:N BODY[]<0.S>` answers with N messages of S octets. A UID COPY, STORE and EXPUNGE moves [`MANY`] messages: UIDs
//! 1 to 100,000 if those are asked for, and 1, 3, 5 and so on, so that no two make a range, if it is 1 to 200,000.

use imapmove_bench::answers::{fetched, moved};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The mailbox's messages.
pub const MANY: u32 = 100_000;

const GREETING: &[u8] = b"* OK [CAPABILITY IMAP4rev1 UIDPLUS IDLE LITERAL+] ready\r\n";

type Bodies = Arc<Mutex<HashMap<(u32, usize), Arc<[u8]>>>>;

/// Starts it on a thread of its own. It ends with the process.
pub fn start() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { serve(TcpListener::from_std(listener)?).await })
    });
    Ok(address)
}

async fn serve(listener: TcpListener) -> io::Result<()> {
    let bodies = Bodies::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(talk(stream, bodies.clone()));
    }
}

async fn talk(stream: TcpStream, bodies: Bodies) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(1024, stream);
    stream.write_all(GREETING).await?;
    let (mut line, mut is_there) = (String::new(), true);
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        // nginx logs in with literals, each one line.
        while line.ends_with("}\r\n") {
            stream.write_all(b"+ go ahead\r\n").await?;
            stream.read_line(&mut line).await?;
        }
        let (tag, command) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        let mut words = command.split(' ');
        let data = match words.next().unwrap_or_default() {
            "CAPABILITY" => b"* CAPABILITY IMAP4rev1 UIDPLUS IDLE LITERAL+\r\n".to_vec(),
            // nginx takes no other line before the tagged one.
            "LOGIN" => {
                let list = "[CAPABILITY IMAP4rev1 UIDPLUS IDLE LITERAL+]";
                stream.write_all(format!("{tag} OK {list} in\r\n").as_bytes()).await?;
                continue;
            }
            "SELECT" => format!(
                "* {MANY} EXISTS\r\n* OK [UIDVALIDITY 1] valid\r\n* OK [UIDNEXT {}] next\r\n",
                2 * MANY
            )
            .into_bytes(),
            "FETCH" => {
                let (count, size) = asked(command);
                let body = {
                    let mut bodies = bodies.lock().expect("nobody panics there");
                    bodies.entry((count, size)).or_insert_with(|| fetched(count, size).into()).clone()
                };
                stream.write_all(&body).await?;
                Vec::new()
            }
            "IDLE" => {
                stream.write_all(b"+ idling\r\n").await?;
                idle(&mut stream).await?;
                Vec::new()
            }
            "LOGOUT" => {
                stream.write_all(format!("* BYE\r\n{tag} OK done\r\n").as_bytes()).await?;
                return Ok(());
            }
            "UID" => {
                let step = words.next().unwrap_or_default();
                // The first EXPUNGE removes all of them, if there are several.
                let (data, code) = if step != "EXPUNGE" || std::mem::take(&mut is_there) {
                    moved(step, MANY, if command.contains(":200000") { 2 } else { 1 })
                } else {
                    Default::default()
                };
                stream.write_all(&data).await?;
                stream.write_all(format!("{tag} OK {code}done\r\n").as_bytes()).await?;
                continue;
            }
            _ => Vec::new(),
        };
        stream.write_all(&[&data[..], tag.as_bytes(), b" OK done\r\n"].concat()).await?;
    }
}

async fn idle(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    let mut done = [0; 6];
    stream.read_exact(&mut done).await?;
    Ok(())
}

/// Of `FETCH 1:N BODY[]<0.S>`, N and S.
fn asked(command: &str) -> (u32, usize) {
    let between = |from: &str, to: char| {
        let rest = command.split(from).nth(1).unwrap_or_default();
        rest.split(to).next().unwrap_or_default().to_string()
    };
    (between("1:", ' ').parse().unwrap_or(1), between("<0.", '>').parse().unwrap_or(0))
}
