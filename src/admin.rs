//! The admin listener: `/livez`, `/readyz`, `/metrics`, `/status`. It can change nothing.

use crate::imap::Strategy;
use crate::shared::{Phase, Shared};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response, StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Scrapers and probes at one time; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 32;
/// A connection, all its requests together, may take so long.
const LONGEST_CONNECTION: Duration = Duration::from_secs(60);
/// A request must come within this time: whoever says nothing makes room for a probe.
const LONGEST_HEAD: Duration = Duration::from_secs(5);
/// After an accept that failed, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await.expect("never closed");
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(LONGEST_CONNECTION, converse(stream, shared)).await;
            drop(place);
        });
    }
}

/// A peer's errors are its own affair.
async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &shared))));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(LONGEST_HEAD);
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET or HEAD only\n");
    }
    match request.uri().path() {
        "/livez" | "/healthz" => reply(StatusCode::OK, "text/plain", "ok\n"),
        "/readyz" if shared.metrics.draining.get() == 0 => {
            reply(StatusCode::OK, "application/json", "{\"ready\":true}\n")
        }
        "/readyz" => {
            let body = "{\"ready\":false,\"reason\":\"draining\"}\n";
            reply(StatusCode::SERVICE_UNAVAILABLE, "application/json", body)
        }
        "/metrics" => reply(StatusCode::OK, prometheus::TEXT_FORMAT, shared.metrics.text()),
        "/status" => reply(StatusCode::OK, "application/json", status(shared)),
        _ => reply(StatusCode::NOT_FOUND, "text/plain", "there are /livez, /readyz, /metrics and /status\n"),
    }
}

/// How it stands, for people and scripts. Nothing in it needs escaping: the upstream is a host name or an address.
fn status(shared: &Shared) -> String {
    let (census, metrics) = (shared.admission.census(), &shared.metrics);
    let phase = match *shared.phase.borrow() {
        Phase::Running => "running",
        Phase::Retiring => "retiring",
        Phase::Draining | Phase::Stopping => "draining",
    };
    format!(
        "{{\"version\":\"{}\",\"phase\":\"{phase}\",\"upstream\":\"{}\",\"strategy\":\"{}\",\
         \"sessions\":{{\"open\":{},\"without_login\":{},\"moving\":{},\"under_a_minute\":{},\"under_an_hour\":{},\
         \"oldest_seconds\":{}}},\"journal\":{{\"on\":{},\"pending\":{}}},\"last_reload_successful\":{}}}\n",
        env!("CARGO_PKG_VERSION"),
        shared.current().config.upstream,
        shared.strategy().map_or("unknown", Strategy::name),
        census.connections,
        census.unauthenticated,
        metrics.moves_in_flight.get(),
        census.under_a_minute,
        census.under_an_hour,
        census.oldest.as_secs(),
        shared.journal.is_some(),
        metrics.journal_pending.get(),
        metrics.config_last_reload_successful.get() == 1,
    )
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header(CONTENT_TYPE, kind);
    response.body(Full::new(body.into())).expect("a fixed header is legal")
}
