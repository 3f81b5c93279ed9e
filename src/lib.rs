//! imapmove: a transparent IMAP gateway that gives MOVE (RFC 6851) to servers that never learned it.

pub mod admin;
pub mod config;
pub mod connection;
pub mod demo;
pub mod imap;
pub mod metrics;
pub mod proxy;
pub mod tls;
