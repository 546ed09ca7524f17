//! The admin endpoint: a few read-only pages over HTTP, on the control runtime.
//!
//! Owns a listener and a bounded number of connections. Never touches a data thread: pages are made from counters.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use sheen_node::server::{PageRequest, PageSocket};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::pages::{Page, Pages};

/// Connections served at a time; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 64;
/// Time a client has to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time a connection may live: pages are small, nobody needs longer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause after accept failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes a listener over for the runtime this is called in.
///
/// # Errors
/// What the system says.
pub fn listen(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves `pages` on `listener` until the future is dropped.
///
/// # Panics
/// Never: the semaphore is not closed while this runs.
pub async fn serve(listener: TcpListener, pages: Arc<dyn Pages>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin endpoint cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let pages = pages.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(pages.clone(), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // What a client does wrong ends its connection; there is nobody else to tell.
            let _ended = timeout(CONNECTION_TIMEOUT, connection).await;
            drop(permit);
        });
    }
}

/// Answers peers that asked for a page where clients connect, until there are no more to come.
///
/// # Panics
/// Never: the semaphore is not closed while this runs.
pub async fn serve_handed(mut requests: mpsc::Receiver<PageRequest>, pages: Arc<dyn Pages>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Some(PageRequest { socket, begun }) = requests.recv().await {
        let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let pages = pages.clone();
        tokio::spawn(async move {
            // A peer that is gone has nobody to be told.
            let _ended = match socket {
                PageSocket::Unix(socket) => match UnixStream::from_std(socket) {
                    Ok(socket) => timeout(CONNECTION_TIMEOUT, resume(socket, begun, pages)).await,
                    Err(_) => return,
                },
                PageSocket::Tcp(socket) => match TcpStream::from_std(socket) {
                    Ok(socket) => timeout(CONNECTION_TIMEOUT, resume(socket, begun, pages)).await,
                    Err(_) => return,
                },
            };
            drop(permit);
        });
    }
}

/// Serves a connection of whose first request a part was read.
async fn resume(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send,
    begun: Vec<u8>,
    pages: Arc<dyn Pages>,
) {
    let (read, write) = tokio::io::split(socket);
    let read = io::Cursor::new(begun).chain(read);
    let stream = TokioIo::new(tokio::io::join(read, write));
    let service = service_fn(move |request| answer(pages.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(stream, service);
    // What a client does wrong ends its connection; there is nobody else to tell.
    let _ended = connection.await;
}

pub(crate) async fn answer(
    pages: Arc<dyn Pages>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let Page { content_type, body } = match request.uri().path() {
        "/metrics" => pages.metrics(),
        "/status" => pages.status(),
        "/healthz" => pages.health(),
        "/" => Page { content_type: "text/plain; charset=utf-8", body: INDEX.to_owned() },
        _ => return Ok(plain(StatusCode::NOT_FOUND, INDEX)),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

const INDEX: &str = "Sheen node\n\n/metrics  Prometheus text format\n/status   JSON\n/healthz  ok while the node serves\n";

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
