//! The table with the program itself, in front of the model mail store behind a socket. A column is one gateway with its
//! journal, and all cells of the column at one time, a user for each; where it is killed or told to end, another one takes
//! its place.

use crate::peer::{PATIENCE, Peer, Upstream};
use crate::play::{MOVE, Play};
use crate::program::Program;
use crate::scripted::{STOPPED, Scripted};
use crate::store::Manner;
use crate::{Boundary, Case, Fault, in_memory, report};
use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Where the server hangs, this is waited for. A busy machine must not take so long for an answer.
const HANGS: [&str; 2] = ["--move-timeout", "5s"];

/// FAULT-1, FAULT-2, FAULT-3, FAULT-4: every cell.
#[tokio::test(flavor = "multi_thread")]
async fn fault_matrix_with_the_program() {
    let (mut runs, mut failures) = (0, Vec::new());
    for fault in Fault::ALL {
        let mut column = Column::start(fault).await;
        runs += column.scenes.len();
        column.play(fault).await;
        failures.append(&mut column.failures);
    }
    report(runs, &failures);
}

/// All runs of one column.
struct Column {
    program: Program,
    journal: TempDir,
    upstream: Arc<Upstream>,
    scenes: Vec<Scene>,
    failures: Vec<(Case, String)>,
    accepting: AbortHandle,
}

/// One run: a user with two mailboxes.
struct Scene {
    case: Case,
    play: Play,
    user: String,
    server: Arc<Server>,
    client: Option<Peer>,
    /// What the client has got since it sent the MOVE.
    heard: String,
}

impl Column {
    async fn start(fault: Fault) -> Column {
        let scenes: Vec<Scene> = Case::of(fault).into_iter().zip(0..).map(Scene::new).collect();
        let servers = scenes.iter().map(|scene| scene.server.clone()).collect();
        let (upstream, journal) = (Arc::new(Upstream::new().await), in_memory::folder());
        let accepting = tokio::spawn(serve_all(upstream.clone(), servers)).abort_handle();
        let program = start(&upstream, &journal, fault);
        Column { program, journal, upstream, scenes, failures: Vec::new(), accepting }
    }

    async fn play(&mut self, fault: Fault) {
        self.connect_all().await;
        self.each(Scene::reach_the_boundary).await;
        match fault {
            Fault::ClientGone => self.lose_clients().await,
            Fault::Sigterm => self.terminate().await,
            Fault::Sigkill => self.program.kill(),
            _ => {}
        }
        self.each(Scene::suffer).await;
        self.each(Scene::at_once).await;
        self.restart(fault).await;
        self.connect_all().await;
        self.each(Scene::afterwards).await;
        assert_eq!(self.program.metric("journal_errors_total").await, 0, "the journal was there");
        self.program.is_unharmed().await;
    }

    async fn connect_all(&mut self) {
        for scene in &mut self.scenes {
            scene.client = Some(self.program.connect().await);
        }
    }

    /// And the gateway has noticed it: it has closed their sockets.
    async fn lose_clients(&mut self) {
        let open = self.program.descriptors();
        let lost = self.scenes.iter_mut().filter_map(|scene| scene.client.take());
        let lost = lost.map(Peer::reset).count();
        // A session without a MOVE, or whose MOVE has not begun to copy, ends altogether.
        let ends = |scene: &&Scene| matches!(scene.case.at, Boundary::Resolving | Boundary::ExpungeOk);
        let ended = self.scenes.iter().filter(ends).count();
        self.program.until_descriptors(open - lost - ended).await;
    }

    /// And the sessions have noticed it: those without a MOVE have ended.
    async fn terminate(&mut self) {
        self.program.terminate().await;
        let moving = self.scenes.iter().filter(|scene| scene.case.at != Boundary::ExpungeOk).count() as u64;
        self.program.until_metric("connections_active", |sessions| sessions <= moving).await;
    }

    /// With the same journal, where the gateway was told to end, or killed.
    async fn restart(&mut self, fault: Fault) {
        if fault == Fault::Sigterm {
            assert!(self.program.ended().await.success(), "SIGTERM: all sessions have ended");
        }
        if matches!(fault, Fault::Sigterm | Fault::Sigkill) {
            self.program = start(&self.upstream, &self.journal, fault);
        }
    }

    /// Does something in all of them at one time. Who fails takes part no more.
    async fn each<F>(&mut self, act: fn(Scene) -> F)
    where
        F: Future<Output = Scene> + Send + 'static,
    {
        let acting = self.scenes.drain(..).map(|scene| (scene.case, tokio::spawn(act(scene))));
        for (case, acting) in acting.collect::<Vec<_>>() {
            match acting.await {
                Ok(scene) => self.scenes.push(scene),
                Err(error) => self.failures.push((case, said(error.into_panic()))),
            }
        }
    }
}

impl Drop for Column {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn start(upstream: &Upstream, journal: &TempDir, fault: Fault) -> Program {
    let journal = ["--journal", journal.path().to_str().expect("a name of plain letters")];
    let hangs = if fault == Fault::Hang { &HANGS[..] } else { &[] };
    let (address, flags) = (upstream.address(), [&journal[..], hangs].concat());
    Program::start(address, &flags)
}

/// What a failing check has said.
fn said(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

// The user's side.
impl Scene {
    fn new((case, number): (Case, usize)) -> Scene {
        let manners = [Manner::dovecot, Manner::courier, Manner::cyrus];
        let scripted = Scripted::new(case, manners[number % manners.len()], number as u64);
        let play = Play::begin(case, &scripted);
        let (server, user) = (Arc::new(Server::new(scripted)), format!("user{number}"));
        Scene { case, play, user, server, client: None, heard: String::new() }
    }

    fn client(&mut self) -> &mut Peer {
        self.client.as_mut().expect("it is connected")
    }

    async fn say(&mut self, line: &str) {
        self.client().send(format!("{line}\r\n")).await;
    }

    async fn hear(&mut self, start: &str) -> String {
        loop {
            let line = self.client().line().await;
            assert!(!line.is_empty(), "the end came before {start}: {}", self.heard);
            self.heard.push_str(&format!("{line}\r\n"));
            if line.starts_with(start) {
                return line;
            }
        }
    }

    /// And the source is selected.
    async fn log_in(&mut self) {
        for command in [format!("l LOGIN {} secret", self.user), "s SELECT INBOX".to_owned()] {
            self.say(&command).await;
            let reply = self.hear(&command[..2]).await;
            assert!(reply[2..].starts_with("OK "), "{reply}");
        }
        self.heard.clear();
    }

    async fn reach_the_boundary(mut self) -> Scene {
        self.log_in().await;
        let request = self.server.scripted().request();
        self.say(&format!("{MOVE} {request}")).await;
        let awaited = if self.case.is_stopped() { STOPPED.trim_end() } else { MOVE };
        self.hear(awaited).await;
        self.play.reached(&self.server.scripted());
        self
    }

    /// What happens to the server's connection of this run.
    async fn suffer(self) -> Scene {
        match self.case.fault {
            Fault::Reset => self.server.order(Order::Reset),
            Fault::Bye => self.server.order(Order::Bye),
            Fault::ClientGone | Fault::Sigterm => self.server.order(Order::GoOn),
            Fault::Hang | Fault::No | Fault::NoOnce | Fault::Bad | Fault::Sigkill => {}
        }
        self
    }

    async fn at_once(mut self) -> Scene {
        if !self.case.ends_the_session() {
            self.say("n NOOP").await;
            self.hear("n ").await;
        }
        let rest = self.leave().await;
        if self.case.ends_the_session() {
            self.heard.push_str(&rest);
        }
        self.play.at_once(&self.server.scripted(), &self.heard);
        self
    }

    /// The user logs in and selects the source again.
    async fn afterwards(mut self) -> Scene {
        self.log_in().await;
        self.leave().await;
        self.play.afterwards(&self.server.scripted());
        self
    }

    /// Logs out, if that is possible, and waits for the end of both connections. What the client has got meanwhile.
    async fn leave(&mut self) -> String {
        let mut rest = Vec::new();
        if let Some(mut client) = self.client.take() {
            // However it ends.
            let _ = client.stream().write_all(b"z LOGOUT\r\n").await;
            let _ = timeout(PATIENCE, client.stream().read_to_end(&mut rest)).await.expect("an end in time");
        }
        let ended = timeout(PATIENCE, self.server.ended.acquire()).await;
        ended.expect("the server's connection ends in time").expect("it is open").forget();
        String::from_utf8(rest).expect("ASCII")
    }
}

/// What a server does in the middle of a MOVE.
enum Order {
    Reset,
    Bye,
    GoOn,
}

/// The server of one run.
struct Server {
    scripted: Mutex<Scripted>,
    orders: mpsc::UnboundedSender<Order>,
    ordered: tokio::sync::Mutex<mpsc::UnboundedReceiver<Order>>,
    /// How many of its connections have ended.
    ended: Semaphore,
}

// The server's side.
impl Server {
    fn new(scripted: Scripted) -> Server {
        let (orders, ordered) = mpsc::unbounded_channel();
        let (scripted, ordered) = (Mutex::new(scripted), tokio::sync::Mutex::new(ordered));
        Server { scripted, orders, ordered, ended: Semaphore::new(0) }
    }

    fn scripted(&self) -> MutexGuard<'_, Scripted> {
        self.scripted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("the receiver is here");
    }

    /// A connection on which this has come already.
    async fn serve(&self, mut stream: TcpStream, mut come: Vec<u8>) {
        drop(self.scripted().work()); // the greeting, which was said
        let mut ordered = self.ordered.lock().await;
        loop {
            let said = {
                let mut scripted = self.scripted();
                scripted.receive(&come);
                scripted.work()
            };
            come.clear();
            let written = stream.write_all(&said).await;
            if written.is_err() || self.scripted().store.closed {
                break;
            }
            tokio::select! {
                read = stream.read_buf(&mut come) => if !matches!(read, Ok(1..)) { break },
                order = ordered.recv() => match order.expect("the sender is here") {
                    Order::Reset => break stream.set_zero_linger().expect("a socket option"),
                    Order::Bye => break drop(stream.write_all(b"* BYE Good night\r\n").await),
                    Order::GoOn => {
                        let said = self.scripted().go_on();
                        let _ = stream.write_all(&said).await;
                    }
                }
            }
        }
        drop(stream);
        self.scripted().reconnect();
        self.ended.add_permits(1);
    }
}

/// Which server it is shows in the name of the user.
async fn serve_all(upstream: Arc<Upstream>, servers: Vec<Arc<Server>>) {
    let (mut serving, servers) = (JoinSet::new(), Arc::new(servers));
    loop {
        let (mut stream, _) = upstream.0.accept().await.expect("accepts");
        let servers = servers.clone();
        serving.spawn(async move {
            let mut come = Vec::new();
            let _ = stream.write_all(b"* OK model ready\r\n").await;
            while !come.ends_with(b"\n") && matches!(stream.read_buf(&mut come).await, Ok(1..)) {}
            let line = String::from_utf8(come.clone()).expect("ASCII");
            let name = line.split(' ').nth(2).and_then(|user| user.strip_prefix("user"));
            if let Some(number) = name.and_then(|number| number.parse::<usize>().ok()) {
                servers[number].serve(stream, come).await;
            }
        });
    }
}
