//! Where a client comes from: read from a proxy in front, told to the upstream behind.

use crate::config::value::Outbound;
use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader};
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The longest PROXY header, in octets: its addresses, and what else a proxy may put there.
pub const LONGEST_HEADER: usize = 4 * 1024;
/// The longest of version 1, in octets.
const LONGEST_V1: usize = 107;
/// Version 2 begins so.
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Both ends of a client's connection, as the client sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client.
    pub client: SocketAddr,
    /// Where it has connected to.
    pub server: SocketAddr,
}

impl Origin {
    /// Of a connection that nothing stands in front of.
    pub fn of(stream: &TcpStream, client: SocketAddr) -> Origin {
        let server = stream.local_addr().unwrap_or(client);
        Origin { client: plain(client), server: plain(server) }
    }

    /// Reads a PROXY header and nothing behind it. What a proxy says of itself (LOCAL, UNKNOWN) leaves the origin as
    /// it is.
    ///
    /// # Errors
    /// If something else comes, or nothing.
    pub async fn read(self, stream: &mut TcpStream) -> Result<Origin> {
        let octets = header(stream).await?;
        let malformed = |_| Error::new(ErrorKind::InvalidData, "no PROXY header");
        let (header, _) = ProxyHeader::parse(&octets, ParseConfig::default()).map_err(malformed)?;
        Ok(match header.proxied_address() {
            Some(told) => Origin { client: plain(told.source), server: plain(told.destination) },
            None => self,
        })
    }

    /// As a PROXY header.
    pub fn header(&self, version: Outbound) -> Vec<u8> {
        let Origin { client, server } = *self;
        let (client, server) = match client.is_ipv4() == server.is_ipv4() {
            true => (client, server),
            false => (mapped(client), mapped(server)),
        };
        let header = ProxyHeader::with_address(ProxiedAddress::stream(client, server));
        let mut octets = Vec::new();
        let written = match version {
            Outbound::Off => Ok(()),
            Outbound::V1 => header.encode_v1(&mut octets),
            Outbound::V2 => header.encode_v2(&mut octets),
        };
        written.expect("two addresses of one family can be encoded");
        octets
    }

    /// As the parameters of an ID that Dovecot understands.
    pub fn id(&self) -> String {
        let Origin { client, server } = self;
        format!(
            "\"x-originating-ip\" \"{}\" \"x-originating-port\" \"{}\" \"x-connected-ip\" \"{}\" \"x-connected-port\" \"{}\"",
            client.ip(),
            client.port(),
            server.ip(),
            server.port()
        )
    }
}

/// Its octets, and none behind it.
async fn header(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut octets = vec![0; V2.len()];
    stream.read_exact(&mut octets).await?;
    if octets == V2 {
        octets.resize(16, 0);
        stream.read_exact(&mut octets[12..]).await?;
        let length = usize::from(u16::from_be_bytes([octets[14], octets[15]]));
        if length > LONGEST_HEADER {
            return Err(Error::new(ErrorKind::InvalidData, "a PROXY header that is too long"));
        }
        octets.resize(16 + length, 0);
        stream.read_exact(&mut octets[16..]).await?;
    } else {
        while octets.starts_with(b"PROXY ") && !octets.ends_with(b"\n") && octets.len() < LONGEST_V1 {
            octets.push(stream.read_u8().await?);
        }
    }
    Ok(octets)
}

/// An IPv4 address as such, whatever the listener.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}
