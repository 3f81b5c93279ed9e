//! imapmove: a transparent IMAP gateway that gives MOVE (RFC 6851) to servers that never learned it.
//!
//! The gateway is a wire. It cuts two byte streams into lines and literals and forwards each piece as it came. It
//! changes two things: it adds `MOVE` to capability lists, and it carries out a MOVE that the server cannot, as UID
//! COPY, UID STORE and UID EXPUNGE. All that is IMAP happens in one value, an [`imap::Session`], which is given octets
//! and gives octets, and knows neither socket nor clock.
//!
//! # How a byte travels
//!
//! ```text
//!                 main: settings, log, signals
//!                   |
//!                 proxy: accept, admit, one task per connection, drain
//!                   |
//!   . . . . . . . connection: one loop, both sockets . . . . . . . . . . . .
//!   :                                                                      :
//!   :  client      receive   +------------------------+   output           :   upstream
//!   : ---[ leg ]-----------> |     imap::Session      | -----------[ leg ]------> server
//!   :      tls     output    |  lines, capabilities,  |   receive     tls  :
//!   : <--[ leg ]------------ |  one MOVE at a time    | <----------[ leg ]-------
//!   :        \               +------------------------+              /     :
//!   :         `------- octets of a literal, moved across unread ----'      :
//!   . . . . . . . . . . | notice . . . . . . . . . . . . . . . . . . . . . .
//!                       v
//!                 metrics --> admin: /livez /readyz /metrics /status
//!                 journal --> its own thread --> disk
//! ```
//!
//! # Where things live
//!
//! | module | what is in it |
//! |---|---|
//! | [`commands`] | what the program does beside serving: `check`, `config`, `completions`, `man` |
//! | [`config`] | every setting, default and unit in one table; flags, environment, file |
//! | [`proxy`] | listeners, a task per connection, the drain |
//! | [`admission`] | who may come in: connections counted in all, by address, and those without a login |
//! | [`connection`] | one client and its upstream: both sockets, one session |
//! | [`shared`] | what all connections have in common: settings, TLS, counters, whether it drains |
//! | [`systemd`] | what systemd and this process tell each other |
//! | [`tls`] | both handshakes, whether a certificate is believed, and the stream behind them |
//! | [`turns`] | MOVEs of one user out of one mailbox, one after the other |
//! | [`imap`] | the core: everything that is IMAP |
//! | [`journal`] | MOVEs in progress, on disk: what a killed gateway leaves is finished later |
//! | [`log`] | what stderr gets, and how it names a user |
//! | [`metrics`] | the counters |
//! | [`origin`] | where a client comes from: PROXY headers in and out, ID |
//! | [`admin`] | what probes and scrapers see |
//! | [`probe`] | what can this server do, and what will the gateway do about it: `imapmove probe` |
//! | [`screen`] | text for people, with colours where they mean something |
//! | [`demo`] | a small legacy IMAP server in memory, for `imapmove demo` and for tests |
//!
//! # What always holds
//!
//! - [`imap`] imports `std`, `bytes`, `nom` and `memchr`: no socket, no clock, no log. Time, finished handshakes and
//!   lost connections come in as events.
//! - Only [`connection`] holds both sockets of a session, and nothing is awaited in its loop but the loop itself and,
//!   between its turns, a handshake with a deadline.
//! - A leg is read only while the session wants its octets: what waits for a slow peer waits in the other peer's
//!   kernel, not here. An idle connection holds no buffer.
//! - Nothing that was read before a TLS handshake is used after it: a leg is not read between the word that announces
//!   a handshake and its end (RFC 9051 section 11.1).
//! - A session's panic, garbage or overload ends that session and no other.
//! - No thread that serves connections waits for a disk.
//! - No log line, metric or error holds an octet that a peer sent, with two exceptions, each escaped and cut: the
//!   user, where the operator wants that, and where there is a journal, the two mailboxes of a MOVE that may leave
//!   messages in both.

pub mod admin;
pub mod admission;
pub mod commands;
pub mod config;
pub mod connection;
pub mod demo;
pub mod imap;
pub mod journal;
pub mod log;
pub mod metrics;
pub mod origin;
pub mod probe;
pub mod proxy;
pub mod screen;
pub mod shared;
pub mod systemd;
pub mod tls;
pub mod turns;
