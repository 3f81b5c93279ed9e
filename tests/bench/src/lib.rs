//! The core alone, in conversations without a socket: for `linear` and for the benches.

pub mod answers;
pub mod conversation;
#[path = "../../../src/imap/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the core is taken in whole")]
pub mod imap;
