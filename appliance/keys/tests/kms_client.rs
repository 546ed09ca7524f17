//! The KMS client against scripted servers: what it sends, where it finds credentials, what it tries again, what it refuses.
//!
//! A real KMS is asked in the conformance check `keys`; here are the answers that one does not give by command.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sheen_keys::kms::{Environment, KmsKey};
use sheen_keys::{KekError, KeyEncryption, Secret};

/// One request as it came.
#[derive(Clone, Debug, Default)]
struct Request {
    /// `POST / HTTP/1.1`.
    line: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn read(stream: &mut impl Read) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut request = Self::default();
        reader.read_line(&mut request.line).ok()?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            request.headers.push((name.to_lowercase(), value.to_owned()));
        }
        let length = request.header("content-length").and_then(|text| text.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        request.body = String::from_utf8(body).ok()?;
        (!request.line.is_empty()).then_some(request)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn operation(&self) -> &str {
        self.header("x-amz-target").unwrap_or_default().trim_start_matches("TrentService.")
    }
}

/// Answers each connection by a function of the request and of how many came before; keeps the requests.
#[derive(Clone, Debug)]
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
}

type Answered = (u16, String);

impl Server {
    fn start(answer: impl Fn(&Request, usize) -> Answered + Send + 'static) -> Self {
        Self::start_through(Some, answer)
    }

    fn start_through<S: Read + Write>(
        secure: impl Fn(TcpStream) -> Option<S> + Send + 'static,
        answer: impl Fn(&Request, usize) -> Answered + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(mut stream) = stream.ok().and_then(&secure) else { continue };
                let Some(request) = Request::read(&mut stream) else { continue };
                let number = kept.lock().unwrap().len();
                kept.lock().unwrap().push(request.clone());
                let (status, body) = answer(&request, number);
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
                // A client that has heard enough closes.
                let _ = stream.write_all((head + &body).as_bytes()).and_then(|()| stream.flush());
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

const ARN: &str = "arn:aws:kms:us-east-1:111122223333:key/k";
const SECRET: &[u8] = b"the data key";
const CONTEXT: &[u8] = b"purpose0123456789abcdef";

/// A KMS that gives back what it got.
fn echo(request: &Request, _: usize) -> Answered {
    let field = |name: &str| {
        let value: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        value[name].as_str().unwrap_or_default().to_owned()
    };
    let body = match request.operation() {
        "DescribeKey" => format!(r#"{{"KeyMetadata":{{"Arn":"{ARN}","KeyState":"Enabled"}}}}"#),
        "Encrypt" => format!(r#"{{"CiphertextBlob":"{}","KeyId":"{ARN}"}}"#, field("Plaintext")),
        "Decrypt" => format!(r#"{{"Plaintext":"{}","KeyId":"{ARN}"}}"#, field("CiphertextBlob")),
        other => {
            return (
                400,
                format!(r#"{{"__type":"UnknownOperationException","message":"{other}"}}"#),
            );
        }
    };
    (200, body)
}

fn exception(status: u16, code: &str) -> Answered {
    (status, format!(r#"{{"__type":"com.amazonaws.kms#{code}","message":"said so"}}"#))
}

const KEYS: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "hidden")];

fn environment(pairs: &[(&str, &str)]) -> Environment {
    Environment::new(|name| {
        let given = pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        // Nothing beyond this machine is ever asked.
        let otherwise = (name == "AWS_EC2_METADATA_DISABLED").then_some("true");
        given.or(otherwise).map(str::to_owned)
    })
}

fn key(url: &str, pairs: &[(&str, &str)]) -> KmsKey {
    KmsKey::open(&format!("alias/x?endpoint={url}&region=us-east-1"), environment(pairs)).unwrap()
}

fn wrap(key: &KmsKey) -> Result<Vec<u8>, KekError> {
    key.wrap(CONTEXT, &Secret::copy_of(SECRET).unwrap())
}

#[test]
fn requests_are_those_of_the_json_protocol_and_signed() {
    let server = Server::start(echo);
    let mut pairs = KEYS.to_vec();
    pairs.push(("AWS_SESSION_TOKEN", "token"));
    let key = key(&server.url(), &pairs);
    let wrapped = wrap(&key).unwrap();
    assert_eq!(key.unwrap(CONTEXT, &wrapped).unwrap().expose(), SECRET);
    let seen = server.seen();
    let operations: Vec<&str> = seen.iter().map(Request::operation).collect();
    assert_eq!(operations, ["DescribeKey", "Encrypt", "DescribeKey", "Decrypt"]);
    for request in &seen {
        assert_eq!(request.line, "POST / HTTP/1.1\r\n");
        assert_eq!(request.header("content-type"), Some("application/x-amz-json-1.1"));
        assert_eq!(request.header("x-amz-security-token"), Some("token"));
        let signed = request.header("authorization").unwrap();
        assert!(signed.contains(
            "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target,"
        ));
    }
    assert_eq!(
        seen[1].body,
        "{\"KeyId\":\"alias/x\",\"EncryptionContext\":{\"sheen-purpose\":\"purpose\",\"sheen-device\":\
         \"30313233-3435-3637-3839-616263646566\"},\"Plaintext\":\"dGhlIGRhdGEga2V5\"}"
    );
}

#[test]
fn a_busy_or_broken_kms_is_asked_again_and_nothing_else_is() {
    for (status, code, asked) in [
        (400, "ThrottlingException", 4),
        (500, "KMSInternalException", 4),
        (503, "", 4),
        (400, "ExpiredTokenException", 1),
        (400, "ValidationException", 1),
    ] {
        let server = Server::start(move |_, _| exception(status, code));
        assert!(wrap(&key(&server.url(), KEYS)).is_err());
        assert_eq!(server.seen().len(), asked, "{status} {code}");
    }
}

#[test]
fn a_kms_that_recovers_serves() {
    let server = Server::start(|request, number| match number {
        0 | 1 => exception(400, "ThrottlingException"),
        _ => echo(request, number),
    });
    assert!(wrap(&key(&server.url(), KEYS)).is_ok());
    assert_eq!(server.seen().len(), 4);
}

#[test]
fn an_incorrect_key_and_a_wrong_ciphertext_are_the_wrong_key() {
    for code in ["IncorrectKeyException", "InvalidCiphertextException"] {
        let server = Server::start(move |request, number| match request.operation() {
            "Decrypt" => exception(400, code),
            _ => echo(request, number),
        });
        let key = key(&server.url(), KEYS);
        let wrapped = wrap(&key).unwrap();
        let refused = key.unwrap(CONTEXT, &wrapped);
        assert!(matches!(refused, Err(KekError::WrongKey { .. })), "{code}: {refused:?}");
    }
}

#[test]
fn a_text_that_repeats_the_request_is_not_passed_on() {
    let server = Server::start(|request, _| {
        let token = request.header("x-amz-security-token").unwrap_or_default();
        (400, format!(r#"{{"__type":"InvalidSignatureException","message":"canonical: {token}"}}"#))
    });
    let mut pairs = KEYS.to_vec();
    pairs.push(("AWS_SESSION_TOKEN", "secret-token"));
    let refused = wrap(&key(&server.url(), &pairs)).unwrap_err();
    assert!(matches!(refused, KekError::Denied { .. }), "{refused:?}");
    let said = format!("{refused} {refused:?}");
    assert!(!said.contains("secret-token") && !said.contains("hidden"), "{said}");
    assert!(said.contains("clock"), "{said}");
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let server = Server::start(|_, _| (200, " ".repeat(1 << 20)));
    let refused = wrap(&key(&server.url(), KEYS)).unwrap_err();
    assert!(
        matches!(&refused, KekError::Unreachable { reason, .. } if reason.contains("16384")),
        "{refused}"
    );
}

#[test]
fn what_is_not_a_kms_is_said_not_to_be_one() {
    let server = Server::start(|_, _| (200, "<html>hello</html>".into()));
    let refused = wrap(&key(&server.url(), KEYS)).unwrap_err();
    assert!(
        matches!(&refused, KekError::Malformed { reason, .. } if reason.contains("endpoint")),
        "{refused}"
    );
}

#[test]
fn a_symmetric_key_is_needed() {
    let server = Server::start(|_, _| {
        (
            200,
            format!(
                r#"{{"KeyMetadata":{{"Arn":"{ARN}","KeyState":"Enabled","KeySpec":"RSA_2048"}}}}"#
            ),
        )
    });
    let refused = wrap(&key(&server.url(), KEYS)).unwrap_err();
    assert!(matches!(refused, KekError::Malformed { .. }), "{refused}");
}

#[test]
fn a_server_that_hangs_up_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let refused = wrap(&key(&url, KEYS)).unwrap_err();
    assert!(matches!(refused, KekError::Unreachable { .. }), "{refused}");
}

const DOCUMENT: &str = r#"{"Code":"Success","AccessKeyId":"AKIDROLE","SecretAccessKey":"s","Token":"t","Expiration":"2030"}"#;

fn requires_role_key(server: &Server) {
    for request in server.seen() {
        let signed = request.header("authorization").unwrap();
        assert!(signed.contains("Credential=AKIDROLE/"), "{signed}");
        assert_eq!(request.header("x-amz-security-token"), Some("t"));
    }
    assert!(!server.seen().is_empty());
}

#[test]
fn the_instances_role_is_found_by_the_metadata_service_version_2() {
    let metadata = Server::start(|request, _| {
        let with_token = request.header("x-aws-ec2-metadata-token") == Some("tok");
        match request.line.as_str() {
            "PUT /latest/api/token HTTP/1.1\r\n"
                if request.header("x-aws-ec2-metadata-token-ttl-seconds").is_some() =>
            {
                (200, "tok".into())
            }
            "GET /latest/meta-data/iam/security-credentials/ HTTP/1.1\r\n" if with_token => {
                (200, "role\n".into())
            }
            "GET /latest/meta-data/iam/security-credentials/role HTTP/1.1\r\n" if with_token => {
                (200, DOCUMENT.into())
            }
            _ => (401, String::new()),
        }
    });
    let server = Server::start(echo);
    let url = metadata.url();
    let pairs = [
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str()),
        ("AWS_EC2_METADATA_DISABLED", "false"),
    ];
    wrap(&key(&server.url(), &pairs)).unwrap();
    requires_role_key(&server);
}

#[test]
fn a_containers_credentials_are_found_with_the_token_of_the_file() {
    let agent = Server::start(|request, _| {
        let is_right = request.line.starts_with("GET /creds ")
            && request.header("authorization") == Some("of-file");
        if is_right { (200, DOCUMENT.into()) } else { (401, String::new()) }
    });
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "of-file\n").unwrap();
    let (url, path) = (format!("{}/creds", agent.url()), token.path().display().to_string());
    let mut pairs = vec![
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "of-variable"),
    ];
    let server = Server::start(echo);
    let refused = wrap(&key(&server.url(), &pairs)).unwrap_err();
    assert!(
        matches!(&refused, KekError::Denied { reason, .. } if reason.contains("401")),
        "{refused}"
    );
    pairs.push(("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &path));
    wrap(&key(&server.url(), &pairs)).unwrap();
    requires_role_key(&server);
}

#[test]
fn credentials_are_not_asked_for_in_the_clear_elsewhere() {
    let server = Server::start(echo);
    let pairs = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/creds")];
    let refused = wrap(&key(&server.url(), &pairs)).unwrap_err();
    assert!(matches!(refused, KekError::Denied { .. }), "{refused}");
    assert!(server.seen().is_empty());
}

#[test]
fn without_credentials_it_says_where_it_looked() {
    let refused = wrap(&key("http://127.0.0.1:9", &[])).unwrap_err();
    let KekError::Denied { reason, .. } = &refused else { panic!("{refused:?}") };
    for place in
        ["AWS_ACCESS_KEY_ID", "profile `default`", "container", "AWS_EC2_METADATA_DISABLED"]
    {
        assert!(reason.contains(place), "{reason}");
    }
}

/// A TLS server on this machine, with a certificate for `name`; and the authority's certificate in a file.
fn secure_server(name: &str) -> (Server, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let authority = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), made.cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let configuration = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let configuration = Arc::new(configuration);
    let secure = move |stream: TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let connection = rustls::ServerConnection::new(Arc::clone(&configuration)).unwrap();
        Some(rustls::StreamOwned::new(connection, stream))
    };
    (Server::start_through(secure, echo), authority)
}

#[test]
fn a_kms_behind_tls_is_believed_by_its_authority_alone() {
    let (server, authority) = secure_server("localhost");
    let (_, other_authority) = secure_server("localhost");
    let url = format!("https://localhost:{}", server.address.port());
    let with = |bundle: &tempfile::NamedTempFile| {
        let path = bundle.path().display().to_string();
        let mut pairs = KEYS.to_vec();
        pairs.push(("AWS_CA_BUNDLE", path.as_str()));
        let key = key(&url, &pairs);
        wrap(&key).and_then(|wrapped| key.unwrap(CONTEXT, &wrapped))
    };
    assert_eq!(with(&authority).unwrap().expose(), SECRET);
    let refused = with(&other_authority).unwrap_err();
    assert!(
        matches!(&refused, KekError::Unreachable { reason, .. } if reason.contains("TLS")),
        "{refused}"
    );
}

#[test]
fn a_certificate_for_another_name_is_not_believed() {
    let (server, authority) = secure_server("kms.example");
    let path = authority.path().display().to_string();
    let mut pairs = KEYS.to_vec();
    pairs.push(("AWS_CA_BUNDLE", path.as_str()));
    let url = format!("https://localhost:{}", server.address.port());
    let refused = wrap(&key(&url, &pairs)).unwrap_err();
    assert!(
        matches!(&refused, KekError::Unreachable { reason, .. } if reason.contains("TLS")),
        "{refused}"
    );
}

#[test]
fn it_may_be_asked_from_within_a_runtime() {
    let server = Server::start(echo);
    let key = key(&server.url(), KEYS);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { wrap(&key) }).unwrap();
}
