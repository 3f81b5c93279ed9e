//! A small legacy IMAP server in memory, for `imapmove demo` and for the tests.

mod args;
mod fetch;
mod message;
mod search;
mod server;
mod session;
mod store;

pub use server::{Said, Server};
pub use session::LOGIN;
pub use store::{Flags, Mailbox, Message};
