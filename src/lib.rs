//! imapmove: a transparent IMAP gateway that gives MOVE (RFC 6851) to servers that never learned it.

pub mod demo;
pub mod imap;
