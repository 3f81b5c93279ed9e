//! Who may come in: connections are counted in all, by address, and those that have not logged in.
//!
//! A stalled client must not keep a sound one out. So a newcomer at the limit of connections without a login is not
//! turned away where one that waits has had its time, or comes from an address that holds more places than the
//! newcomer's: that one has to leave instead.

use crate::config::Config;
use crate::metrics::Metrics;
use rustix::io::Errno;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// At the limit of connections without a login, one that is older than this makes room for a newcomer.
const CROWDED_LOGIN: Duration = Duration::from_secs(10);
/// To a client that has to make room.
pub const MAKE_ROOM: &str = "Too many connections are waiting for a login, try again later";

/// Why a connection is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `max-connections`.
    Connections,
    /// `max-connections-per-ip`.
    PerIp,
    /// `max-unauthenticated`.
    Unauthenticated,
    /// The operating system gives this process no more file descriptors.
    Descriptors,
    /// It is none of the `trusted-proxies`, or does not begin with a PROXY header.
    Origin,
}

impl Full {
    /// All of them.
    pub const ALL: [Full; 5] =
        [Full::Connections, Full::PerIp, Full::Unauthenticated, Full::Descriptors, Full::Origin];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Full::Connections => "max_connections",
            Full::PerIp => "max_connections_per_ip",
            Full::Unauthenticated => "max_unauthenticated",
            Full::Descriptors => "descriptors",
            Full::Origin => "proxy_protocol",
        }
    }
}

/// For the client's eyes.
impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Full::Connections => "Too many connections, try again later",
            Full::PerIp => "Too many connections from your address, try again later",
            Full::Unauthenticated => MAKE_ROOM,
            Full::Origin => "Connect through the proxy in front of this gateway",
            Full::Descriptors => "The gateway is out of file descriptors: raise its limit (ulimit -Hn)",
        })
    }
}

/// Whether the operating system gave none, to this process or at all.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Who is in at one time.
#[derive(Clone, Copy, Debug)]
pub struct Census {
    /// In all.
    pub connections: usize,
    /// Those without a login.
    pub unauthenticated: usize,
    /// Those that came within the last minute.
    pub under_a_minute: usize,
    /// Those that came within the last hour.
    pub under_an_hour: usize,
    /// How long the first one of them is in.
    pub oldest: Duration,
}

/// The count of one gateway's connections.
pub struct Admission {
    metrics: Arc<Metrics>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// In all, from one address, without a login.
    most: [usize; 3],
    /// Ever admitted: each place has its number.
    admitted: u64,
    connections: usize,
    unauthenticated: usize,
    /// Since when each connection is there, by number.
    since: BTreeMap<u64, Instant>,
    networks: HashMap<IpAddr, Network>,
}

/// The connections from one address.
#[derive(Default)]
struct Network {
    connections: usize,
    /// Those that have not logged in, by number, so that the oldest is the first.
    unauthenticated: BTreeMap<u64, Waiting>,
}

struct Waiting {
    since: Instant,
    leave: Arc<Notify>,
}

impl Admission {
    /// With nobody in.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Admission {
        let admission = Admission { metrics, open: Mutex::default() };
        admission.limit(config);
        admission
    }

    /// From now on these limits hold, for newcomers.
    pub fn limit(&self, config: &Config) {
        self.open().most =
            [config.max_connections, config.max_connections_per_ip, config.max_unauthenticated];
    }

    /// A place for a connection from this address, or the limit that has none. Each limit that was met is counted.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        self.admit_at(Instant::now(), network(address))
    }

    fn admit_at(self: &Arc<Self>, now: Instant, network: IpAddr) -> Result<Place, Full> {
        let mut open = self.open();
        if let Some(full) = open.limit_met(&network) {
            self.metrics.turned_away(full);
            if full != Full::Unauthenticated || !open.make_room(now, &network) {
                return Err(full);
            }
        }
        let leave = Arc::new(Notify::new());
        let number = open.enter(network, Waiting { since: now, leave: leave.clone() });
        Ok(Place { admission: self.clone(), network, number, leave, logged_in: false })
    }

    /// Who is in.
    pub fn census(&self) -> Census {
        let (open, now) = (self.open(), Instant::now());
        let age = |since: &Instant| now.saturating_duration_since(*since);
        let ages = |limit: Duration| open.since.values().filter(|since| age(since) < limit).count();
        Census {
            connections: open.connections,
            unauthenticated: open.unauthenticated,
            under_a_minute: ages(Duration::from_secs(60)),
            under_an_hour: ages(Duration::from_secs(3_600)),
            oldest: open.since.values().next().map(age).unwrap_or_default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nobody panics while counting")
    }
}

impl Open {
    fn limit_met(&self, network: &IpAddr) -> Option<Full> {
        let from_there = self.networks.get(network).map_or(0, |n| n.connections);
        let [in_all, per_ip, unauthenticated] = self.most;
        match () {
            () if self.connections >= in_all => Some(Full::Connections),
            () if from_there >= per_ip => Some(Full::PerIp),
            () if self.unauthenticated >= unauthenticated => Some(Full::Unauthenticated),
            () => None,
        }
    }

    fn enter(&mut self, network: IpAddr, waiting: Waiting) -> u64 {
        self.admitted += 1;
        self.connections += 1;
        self.unauthenticated += 1;
        self.since.insert(self.admitted, waiting.since);
        let network = self.networks.entry(network).or_default();
        network.connections += 1;
        network.unauthenticated.insert(self.admitted, waiting);
        self.admitted
    }

    /// Of the address that holds most places without a login, the oldest leaves. Says whether there was one that must.
    fn make_room(&mut self, now: Instant, newcomer: &IpAddr) -> bool {
        let count = |network: &Network| network.unauthenticated.len();
        let its_own = self.networks.get(newcomer).map_or(0, count);
        let crowds = self.networks.iter().filter_map(|(address, network)| {
            let (number, oldest) = network.unauthenticated.first_key_value()?;
            let due = count(network) > its_own + 1 || now.duration_since(oldest.since) >= CROWDED_LOGIN;
            due.then_some((count(network), Reverse(*number), *address))
        });
        let Some((_, Reverse(number), address)) = crowds.max() else { return false };
        if let Some(waiting) = self.no_longer_waits(&address, number) {
            waiting.leave.notify_one();
        }
        true
    }

    fn no_longer_waits(&mut self, network: &IpAddr, number: u64) -> Option<Waiting> {
        let waiting = self.networks.get_mut(network)?.unauthenticated.remove(&number)?;
        self.unauthenticated -= 1;
        Some(waiting)
    }

    fn leave(&mut self, address: &IpAddr, number: u64) {
        self.no_longer_waits(address, number);
        self.connections -= 1;
        self.since.remove(&number);
        if let Some(network) = self.networks.get_mut(address) {
            network.connections -= 1;
            if network.connections == 0 {
                self.networks.remove(address);
            }
        }
    }
}

/// An IPv4 address; of an IPv6 address the /64, which is what one customer has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

/// One connection's place. It is free again when this is dropped, also by a panic.
pub struct Place {
    admission: Arc<Admission>,
    network: IpAddr,
    number: u64,
    leave: Arc<Notify>,
    logged_in: bool,
}

impl Place {
    /// The client has logged in: it never has to make room.
    pub fn log_in(&mut self) {
        if !std::mem::replace(&mut self.logged_in, true) {
            self.admission.open().no_longer_waits(&self.network, self.number);
        }
    }

    /// Tells when this client has to make room for another.
    pub fn leave(&self) -> Arc<Notify> {
        self.leave.clone()
    }

    /// The work's result, or why it was abandoned.
    pub async fn unless_it_must_leave<T>(
        &self,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        tokio::select! {
            done = work => done,
            () = self.leave.notified() => Err(MAKE_ROOM.to_string()),
        }
    }

    /// There was no descriptor for this connection's other leg: counts it, and says it to the client.
    pub fn without_descriptors(&self) -> String {
        self.admission.metrics.turned_away(Full::Descriptors);
        Full::Descriptors.to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.open().leave(&self.network, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    /// A gateway's door, and the time there.
    struct Door {
        admission: Arc<Admission>,
        now: Instant,
    }

    impl Door {
        fn new(limit: &'static str, most: &str) -> Door {
            let config = Config::with(&[("upstream", "127.0.0.1:9"), (limit, most)]).expect("good settings");
            Door { admission: Arc::new(Admission::new(&config, Arc::default())), now: Instant::now() }
        }

        fn admit(&self, address: &str) -> Result<Place, Full> {
            self.admission.admit_at(self.now, network(address.parse().expect("an address")))
        }
    }

    /// Whether this client has been asked to leave.
    async fn leaves(place: &Place) -> bool {
        timeout(Duration::ZERO, place.leave().notified()).await.is_ok()
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let door = Door::new("max-connections", "2");
        let places = [door.admit("192.0.2.1"), door.admit("192.0.2.1")];
        assert_eq!(door.admit("192.0.2.2").err(), Some(Full::Connections));
        drop(places);
        assert!(door.admission.open().networks.is_empty());
        assert!(door.admit("192.0.2.2").is_ok());
    }

    #[test]
    fn ipv6_addresses_count_by_their_64_and_ipv4_ones_alone_whatever_the_listener() {
        let door = Door::new("max-connections-per-ip", "1");
        let admitted = ["2001:db8:0:1::1", "2001:db8:0:2::1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"];
        let _places = admitted.map(|address| door.admit(address).expect(address));
        for address in ["2001:db8:0:1:ffff::2", "192.0.2.1"] {
            assert_eq!(door.admit(address).err(), Some(Full::PerIp), "{address}");
        }
    }

    #[tokio::test]
    async fn a_crowd_from_one_address_makes_room_for_another_address() {
        let door = Door::new("max-unauthenticated", "3");
        let crowd = ["192.0.2.1"; 3].map(|address| door.admit(address).expect("a place"));
        let _sound = door.admit("192.0.2.2").expect("a place");
        let left = [leaves(&crowd[0]).await, leaves(&crowd[1]).await, leaves(&crowd[2]).await];
        assert_eq!(left, [true, false, false]);
        assert_eq!(door.admit("192.0.2.1").err(), Some(Full::Unauthenticated));
        let counted = door.admission.metrics.limit_hits.with_label_values(&["max_unauthenticated"]).get();
        assert_eq!(counted, 2);
    }

    #[tokio::test]
    async fn among_equals_only_one_that_has_had_its_time_makes_room() {
        let mut door = Door::new("max-unauthenticated", "2");
        let first = door.admit("192.0.2.1").expect("a place");
        let second = door.admit("192.0.2.2").expect("a place");
        assert_eq!(door.admit("192.0.2.3").err(), Some(Full::Unauthenticated));
        door.now += CROWDED_LOGIN;
        let _third = door.admit("192.0.2.3").expect("a place");
        assert!(leaves(&first).await && !leaves(&second).await);
    }

    #[tokio::test]
    async fn who_has_logged_in_never_makes_room() {
        let mut door = Door::new("max-unauthenticated", "1");
        let mut first = door.admit("192.0.2.1").expect("a place");
        first.log_in();
        first.log_in();
        door.now += CROWDED_LOGIN;
        let second = door.admit("192.0.2.1").expect("a place");
        door.now += CROWDED_LOGIN;
        let _third = door.admit("192.0.2.1").expect("a place");
        assert!(!leaves(&first).await && leaves(&second).await);
        drop((first, second));
        let open = door.admission.open();
        assert_eq!((open.connections, open.unauthenticated), (1, 1));
    }
}
