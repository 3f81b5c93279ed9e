//! The admin listener: `/livez`, `/readyz`, `/metrics`. It can change nothing.

use crate::shared::Shared;
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
        _ => reply(StatusCode::NOT_FOUND, "text/plain", "there are /livez, /readyz and /metrics\n"),
    }
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header(CONTENT_TYPE, kind);
    response.body(Full::new(body.into())).expect("a fixed header is legal")
}
