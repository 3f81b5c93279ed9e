//! Both handshakes: the gateway as server on the client's leg, as client on the upstream leg.

mod stream;

use crate::config::value::Verify;
use crate::config::{Config, Problem};
use crate::imap;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;

pub use stream::TlsStream;

/// The protocol's name in ALPN (RFC 7301). Demanded of no client, but one that asks for another protocol only is
/// refused; not offered to the upstream, where a front end that knows other names only might refuse it.
const ALPN: &[u8] = b"imap";

/// The gateway's side of clients' handshakes.
#[derive(Clone)]
pub struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    /// From `tls-cert` and `tls-key`; nothing if there is no certificate.
    pub fn new(config: &Config) -> Result<Option<Acceptor>, Problem> {
        let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
        let chain = certificates(cert).map_err(|e| config.problem("tls-cert", e))?;
        let key = private_key(key).map_err(|e| config.problem("tls-key", e))?;
        let mut tls = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|e| config.problem("tls-key", key_advice(&e)))?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Some(Acceptor(Arc::new(tls))))
    }

    /// A client's handshake on a stream of which nothing has been read since it was announced.
    pub async fn accept(&self, stream: TcpStream) -> Result<TlsStream, String> {
        let accepted = TlsStream::accept(self.0.clone(), stream).await;
        accepted.map_err(|e| format!("TLS handshake with the client failed: {e}"))
    }
}

/// What a handshake has shown of the upstream.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// Of TLS.
    pub version: &'static str,
    /// Whom the certificate is for; empty if it does not say so in the old way.
    pub subject: String,
    /// Who says so.
    pub issuer: String,
    /// Until when, in seconds since 1970.
    pub not_after: u64,
}

/// The gateway's side of handshakes with the upstream.
#[derive(Clone)]
pub struct Connector {
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    /// From the `upstream-` settings; nothing if that leg is in clear.
    pub fn new(config: &Config) -> Result<Option<Connector>, Problem> {
        if config.upstream_tls() == imap::Tls::Off {
            return Ok(None);
        }
        let name = config.upstream_name.clone().unwrap_or_else(|| config.upstream.host.clone());
        let name = ServerName::try_from(name).map_err(|e| config.problem("upstream-name", e))?;
        let tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Judge::new(config)?))
            .with_no_client_auth();
        Ok(Some(Connector { tls: Arc::new(tls), name }))
    }

    /// The handshake with the upstream. The error says what to do, and nothing that the upstream said.
    pub async fn connect(&self, stream: TcpStream) -> Result<TlsStream, String> {
        let connected = TlsStream::connect(self.tls.clone(), self.name.clone(), stream).await;
        connected.map_err(|e| self.advice(&e))
    }

    /// What there is to say of a handshake with the upstream. Names in it are the upstream's own words, escaped.
    pub fn report(stream: &TlsStream) -> Handshake {
        let session = stream.state();
        let certificate = session.peer_certificates().and_then(|chain| Certificate::from_der(&chain[0]).ok());
        let (subject, issuer, not_after) = certificate.map_or_else(Default::default, |certificate| {
            let of = certificate.tbs_certificate();
            let text = |name: &dyn std::fmt::Display| name.to_string().escape_debug().to_string();
            let not_after = of.validity().not_after.to_unix_duration().as_secs();
            (text(of.subject()), text(of.issuer()), not_after)
        });
        let version = match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
            _ => "TLS 1.2",
        };
        Handshake { version, subject, issuer, not_after }
    }

    fn advice(&self, error: &io::Error) -> String {
        let name = self.name.to_str();
        let cause = match error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
            Some(Error::InvalidCertificate(cause)) => return certificate_advice(cause, &name),
            Some(Error::InvalidMessage(_)) => {
                "it did not answer with TLS: see upstream-tls and the port in upstream".to_string()
            }
            Some(
                Error::PeerIncompatible(_) | Error::AlertReceived(rustls::AlertDescription::ProtocolVersion),
            ) => "it has neither TLS 1.2 nor TLS 1.3 with a cipher of today".to_string(),
            Some(other) => other.to_string(),
            None => error.kind().to_string(),
        };
        format!("TLS handshake with the upstream server failed: {cause}")
    }
}

fn certificate_advice(cause: &CertificateError, name: &str) -> String {
    let cause = match cause {
        CertificateError::UnknownIssuer => {
            "comes from no trusted authority: name the authority's PEM file, or its own, with upstream-ca"
                .into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("is not for {name}: say with upstream-name which name it carries")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired: renew it on the server".to_string()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet: compare the two machines' clocks".to_string()
        }
        _ => "cannot be verified: name it, in a PEM file, with upstream-ca".to_string(),
    };
    format!("The upstream server's certificate {cause}")
}

/// Decides whether the upstream is who it should be.
///
/// A certificate that stands in `upstream-ca` itself is believed as it is, whatever name it carries: old servers'
/// self-signed ones mark themselves as an authority's and carry no name where it is looked for today, so the
/// usual rules could only refuse them, and nothing proves an identity better than the very certificate.
#[derive(Debug)]
struct Judge {
    rules: Option<Arc<WebPkiServerVerifier>>,
    known: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Judge {
    fn new(config: &Config) -> Result<Judge, Problem> {
        let algorithms = provider().signature_verification_algorithms;
        if config.upstream_verify == Verify::None {
            return Ok(Judge { rules: None, known: Vec::new(), algorithms });
        }
        let known = match &config.upstream_ca {
            Some(file) => certificates(file).map_err(|e| config.problem("upstream-ca", e))?,
            None => Vec::new(),
        };
        let trusted =
            if known.is_empty() { rustls_native_certs::load_native_certs().certs } else { known.clone() };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted);
        let rules = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|_| {
                let expected = match config.upstream_ca {
                    Some(_) => "a PEM file with usable certificates, none that is broken",
                    None => "a PEM file with certificates, because this system has none of its own",
                };
                config.problem("upstream-ca", expected)
            })?;
        Ok(Judge { rules: Some(rules), known, algorithms })
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.rules {
            Some(rules) if !self.known.contains(end_entity) => {
                rules.verify_server_cert(end_entity, intermediates, name, ocsp, now)
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Until when the clients' certificate is valid, in seconds since 1970; 0 if there is none.
pub fn not_after(config: &Config) -> Result<u64, Problem> {
    let Some(file) = &config.tls_cert else { return Ok(0) };
    let chain = certificates(file).map_err(|e| config.problem("tls-cert", e))?;
    let first = Certificate::from_der(&chain[0]).map_err(|e| {
        config.problem("tls-cert", format!("a PEM file with a certificate, not one that is broken: {e}"))
    })?;
    Ok(first.tbs_certificate().validity().not_after.to_unix_duration().as_secs())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::ring::default_provider())
}

/// At least one certificate, or what was expected instead.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(|found| found.collect::<Result<Vec<_>, _>>());
    let found =
        read.and_then(|found| if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) });
    found.map_err(|e| format!("a PEM file with a certificate: {}", pem_advice(&e)))
}

/// The first private key, or what was expected instead.
fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file).map_err(|e| {
        let is_encrypted = || std::fs::read_to_string(file).is_ok_and(|text| text.contains("ENCRYPTED"));
        match e {
            pem::Error::NoItemsFound if is_encrypted() => {
                "a private key without a password, as `openssl pkey` writes it".to_string()
            }
            e => format!("a PEM file with a private key: {}", pem_advice(&e)),
        }
    })
}

fn pem_advice(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "there is none in it".to_string(),
        pem::Error::MissingSectionEnd { .. } => "it has no end".to_string(),
        pem::Error::IllegalSectionStart { .. } | pem::Error::Base64Decode(_) => "it is damaged".to_string(),
        pem::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

fn key_advice(error: &Error) -> String {
    let why = match error {
        Error::InconsistentKeys(_) => "this is another's".to_string(),
        other => other.to_string(),
    };
    format!("the key of the certificate that stands first in tls-cert: {why}")
}
