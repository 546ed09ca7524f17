//! Orders to a running node, over HTTP on a UNIX socket that the node's user alone may use.
//!
//! `POST /key/rotate` with `{"to": "file:/path"}` wraps the data key under another key; `POST /scrub` with
//! `{"order": "start", "ost": 0}` orders the scrub of one OST, or without `ost` of each, to start, pause or resume, or with `status`
//! nothing, and answers where they stand. `POST /client` and `POST /authority` are about clients and certificates (`identities`). The pages are there too, also while the node starts. Beside the pages, which anybody who reaches their
//! address may read, this is the only way to change a node from outside its protocol; who is on the other end is asked of the
//! kernel for each connection. Owns the listener and a bounded number of connections. Never touches a data thread.

use std::{
    convert::Infallible,
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use sheen_node::{Node, ost::ScrubOrder, server::identities::Identities};
use sheen_types::OstIndex;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use crate::pages::Pages;

mod identities;

pub use identities::{AuthorityOrder, ClientOrder};

/// Connections served at a time; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 4;
/// Bytes of an order.
const ORDER_BYTES_MAX: usize = 4096;
/// Time a client has to send an order's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time an order may take: a key may lie behind a network.
const ORDER_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause after accept failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What the socket of orders is called: the node's socket with this behind it.
pub const OPERATOR_SUFFIX: &str = ".admin";

/// The socket of orders of a node that listens on `socket`.
#[must_use]
pub fn operator_socket(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(OPERATOR_SUFFIX);
    name.into()
}

/// Whoever carries orders out.
pub trait Operator: Send + Sync {
    /// Wraps the data key under the key that `to` names; may block. The answer is JSON.
    ///
    /// # Errors
    /// What went wrong, and what to do, for people.
    fn rotate_key(&self, to: &str) -> Result<String, String>;

    /// Has the scrub of an OST, or of each, do as ordered (None: nothing), and answers where they stand, as JSON.
    ///
    /// # Errors
    /// What went wrong, and what to do, for people.
    fn scrub(&self, ost: Option<u32>, order: Option<ScrubOrder>) -> Result<String, String>;

    /// Has something done about clients; the answer is JSON.
    ///
    /// # Errors
    /// What went wrong, and what to do, for people.
    fn client(&self, order: &ClientOrder) -> Result<String, String>;

    /// Has something done about certificate authorities; the answer is JSON.
    ///
    /// # Errors
    /// What went wrong, and what to do, for people.
    fn authority(&self, order: AuthorityOrder) -> Result<String, String>;
}

/// A running node as operator.
#[derive(Debug)]
pub struct NodeOperator {
    node: Arc<Node>,
}

impl NodeOperator {
    /// Carries orders out on `node`.
    #[must_use]
    pub const fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// Orders are taken once the node serves.
    fn started(&self) -> Result<(), String> {
        match self.node.starting().is_empty() {
            true => Ok(()),
            false => Err("the node is starting; try again when it serves".to_owned()),
        }
    }

    fn identities(&self) -> Result<&Identities, String> {
        self.started()?;
        self.node.identities().map(|it| &**it).ok_or_else(|| "the node is starting".to_owned())
    }

    /// Where a client may reach it: the address it listens at, under the machine's name where that is every address.
    fn addresses(&self) -> Vec<String> {
        let listen = self.node.listen();
        let host = match listen.ip().is_unspecified() {
            true => std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
            false => String::new(),
        };
        match host.trim() {
            "" => vec![listen.to_string()],
            host => vec![format!("{host}:{}", listen.port())],
        }
    }
}

impl Operator for NodeOperator {
    fn rotate_key(&self, to: &str) -> Result<String, String> {
        self.started()?;
        let source = to.parse().map_err(|error| format!("{error}, found \"{to}\""))?;
        let block = self.node.rotate_key(&source).map_err(|error| error.to_string())?;
        Ok(serde_json::json!({ "generation": block.generation, "key": to }).to_string())
    }

    fn scrub(&self, ost: Option<u32>, order: Option<ScrubOrder>) -> Result<String, String> {
        self.started()?;
        let ost = ost.map(OstIndex);
        if let Some(order) = order {
            self.node.order_scrub(ost, order).map_err(|error| error.to_string())?;
        }
        let osts = self.node.scrub_status(ost).map_err(|error| error.to_string())?;
        Ok(serde_json::json!({ "osts": osts }).to_string())
    }

    fn client(&self, order: &ClientOrder) -> Result<String, String> {
        order.carry_out(self.identities()?, &self.addresses())
    }

    fn authority(&self, order: AuthorityOrder) -> Result<String, String> {
        order.carry_out(self.identities()?)
    }
}

/// Listens at `path` for our own user. A socket that is there is replaced: whoever has the node's device and socket owns it.
///
/// # Errors
/// What the system says.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves orders on `listener`, which listens at `path`, until the future is dropped.
///
/// # Panics
/// Never: the semaphore is not closed while this runs.
pub async fn serve(
    listener: UnixListener,
    path: PathBuf,
    operator: Arc<dyn Operator>,
    pages: Arc<dyn Pages>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the socket of orders cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !is_allowed(&stream, &path) {
            tracing::warn!("an order of another user is refused");
            continue;
        }
        let (operator, pages) = (operator.clone(), pages.clone());
        tokio::spawn(async move {
            let service =
                service_fn(move |request| answer(operator.clone(), pages.clone(), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // What a client does wrong ends its connection; there is nobody else to tell.
            let _ended = timeout(ORDER_TIMEOUT, connection).await;
            drop(permit);
        });
    }
}

/// Whether the other end is our own user (whom the socket belongs to) or root. The socket's mode says the same, but not in the moment
/// between its birth and its mode.
fn is_allowed(stream: &UnixStream, path: &Path) -> bool {
    let Ok(owner) = std::fs::metadata(path).map(|metadata| metadata.uid()) else { return false };
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == owner)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateOrder {
    to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScrubRequest {
    order: ScrubWord,
    ost: Option<u32>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ScrubWord {
    Status,
    Start,
    Pause,
    Resume,
}

impl ScrubWord {
    const fn order(self) -> Option<ScrubOrder> {
        match self {
            Self::Status => None,
            Self::Start => Some(ScrubOrder::Start),
            Self::Pause => Some(ScrubOrder::Pause),
            Self::Resume => Some(ScrubOrder::Resume),
        }
    }
}

/// An order that makes sense.
enum Order {
    Rotate(RotateOrder),
    Scrub(ScrubRequest),
    Client(ClientOrder),
    Authority(AuthorityOrder),
}

/// Reads an order's body.
type ReadOrder = fn(&[u8]) -> serde_json::Result<Order>;

/// Orders by their paths, for who asks for another.
const ORDERS: &str = "orders are: POST /key/rotate, POST /scrub, POST /client, POST /authority";

impl Order {
    /// What reads an order of this path. None: no order has it.
    fn reader(path: &str) -> Option<ReadOrder> {
        match path {
            "/key/rotate" => Some(|body| serde_json::from_slice(body).map(Self::Rotate)),
            "/scrub" => Some(|body| serde_json::from_slice(body).map(Self::Scrub)),
            "/client" => Some(|body| serde_json::from_slice(body).map(Self::Client)),
            "/authority" => Some(|body| serde_json::from_slice(body).map(Self::Authority)),
            _ => None,
        }
    }

    fn carry_out(&self, operator: &dyn Operator) -> Result<String, String> {
        match self {
            Self::Rotate(order) => operator.rotate_key(&order.to),
            Self::Scrub(request) => operator.scrub(request.ost, request.order.order()),
            Self::Client(order) => operator.client(order),
            Self::Authority(order) => operator.authority(*order),
        }
    }
}

async fn answer(
    operator: Arc<dyn Operator>,
    pages: Arc<dyn Pages>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    if let "/status" | "/metrics" | "/healthz" = path {
        return crate::server::answer(pages, request).await;
    }
    let Some(read) = Order::reader(path) else {
        return Ok(error(StatusCode::NOT_FOUND, ORDERS));
    };
    if request.method() != Method::POST {
        return Ok(error(StatusCode::METHOD_NOT_ALLOWED, "an order is a POST"));
    }
    let Ok(body) = Limited::new(request.into_body(), ORDER_BYTES_MAX).collect().await else {
        return Ok(error(StatusCode::PAYLOAD_TOO_LARGE, "an order has at most 4 KiB"));
    };
    let order = match read(&body.to_bytes()) {
        Ok(order) => order,
        Err(reason) => return Ok(error(StatusCode::BAD_REQUEST, &reason.to_string())),
    };
    // May wait for a network, a chip or a thread.
    let done = tokio::task::spawn_blocking(move || order.carry_out(&*operator)).await;
    Ok(match done {
        Ok(Ok(body)) => json(StatusCode::OK, body),
        Ok(Err(reason)) => error(StatusCode::CONFLICT, &reason),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the order was not carried out"),
    })
}

fn error(status: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    json(status, serde_json::json!({ "error": reason }).to_string())
}

fn json(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod test {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::pages::Page;

    struct Echo;

    impl Operator for Echo {
        fn rotate_key(&self, to: &str) -> Result<String, String> {
            if to == "bad" {
                Err("no such key".into())
            } else {
                Ok(format!("{{\"key\":\"{to}\"}}"))
            }
        }

        fn scrub(&self, ost: Option<u32>, order: Option<ScrubOrder>) -> Result<String, String> {
            if ost == Some(9) { Err("no OST 9".into()) } else { Ok(format!("{ost:?} {order:?}")) }
        }

        fn client(&self, order: &ClientOrder) -> Result<String, String> {
            Ok(format!("{order:?}"))
        }

        fn authority(&self, order: AuthorityOrder) -> Result<String, String> {
            Ok(format!("{order:?}"))
        }
    }

    impl Pages for Echo {
        fn metrics(&self) -> Page {
            Page { content_type: "text/plain", body: "m 1\n".into() }
        }

        fn status(&self) -> Page {
            Page { content_type: "application/json", body: "{}".into() }
        }

        fn health(&self) -> Page {
            Page { content_type: "text/plain", body: "ok".into() }
        }
    }

    async fn ask(path: &Path, request: String) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn post(path: &str, body: &str) -> String {
        let length = body.len();
        format!("POST {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}")
    }

    fn test(run: impl AsyncFnOnce(PathBuf)) {
        let directory = std::env::temp_dir().join(format!("sheen-operator-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let path = operator_socket(&directory.join("node.sock"));
            // One left by a killed process is replaced.
            drop(listen(&path).unwrap());
            let listener = listen(&path).unwrap();
            let server = serve(listener, path.clone(), Arc::new(Echo), Arc::new(Echo));
            let server = tokio::spawn(server);
            run(path).await;
            server.abort();
        });
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn orders_are_carried_out_and_refusals_say_why() {
        test(async |path| {
            assert!(path.ends_with("node.sock.admin"));
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            let answer = ask(&path, post("/key/rotate", "{\"to\": \"file:/k\"}")).await;
            assert!(
                answer.contains("200 OK") && answer.ends_with("{\"key\":\"file:/k\"}"),
                "{answer}"
            );
            for (body, wanted) in [
                ("{\"order\": \"status\"}", "None None"),
                ("{\"order\": \"start\", \"ost\": 2}", "Some(2) Some(Start)"),
                ("{\"order\": \"pause\", \"ost\": null}", "None Some(Pause)"),
            ] {
                let answer = ask(&path, post("/scrub", body)).await;
                assert!(answer.contains("200 OK") && answer.ends_with(wanted), "{answer}");
            }
            let list = ask(&path, post("/client", "{\"order\": \"list\"}")).await;
            assert!(list.contains("200 OK") && list.ends_with("List { name: None }"), "{list}");
            let show = ask(&path, post("/authority", "{\"order\": \"show\"}")).await;
            assert!(show.contains("200 OK") && show.ends_with("Show"), "{show}");
            let page = ask(&path, "GET /status HTTP/1.0\r\n\r\n".to_owned()).await;
            assert!(page.contains("200 OK") && page.ends_with("{}"), "{page}");
            for (request, status, word) in [
                (post("/scrub", "{\"order\": \"stop\"}"), "400", "stop"),
                (post("/scrub", "{\"order\": \"resume\", \"ost\": 9}"), "409", "no OST 9"),
                (post("/key/rotate", "{\"to\": \"bad\"}"), "409", "no such key"),
                (post("/key/rotate", "{\"from\": \"x\"}"), "400", "from"),
                (post("/key/rotate", &"x".repeat(5000)), "413", "4 KiB"),
                (post("/else", ""), "404", "/key/rotate"),
                ("GET /key/rotate HTTP/1.0\r\n\r\n".to_owned(), "405", "POST"),
            ] {
                let answer = ask(&path, request).await;
                let line = answer.lines().next().unwrap();
                assert!(line.contains(status) && answer.contains(word), "{answer}");
            }
        });
    }
}
