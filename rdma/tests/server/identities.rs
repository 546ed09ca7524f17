//! Certificates for tests: a node and clients of authorities, and a gate that lists whom it lets in.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use sheen_identity::{Certificate, CertificateAuthority, IdentityKey, Role, UnixSeconds};
use sheen_ports::{Peer, Principal};
use sheen_rdma::{
    ClientIdentity, Gate, Refusal, RefusedConnection,
    handshake::{
        Applicant, ClientSettings, Credentials, PrivateKey, ServerSettings, Transit,
        TrustedAuthority,
    },
};

/// The time of the tests, in seconds.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const NODE: [u8; 16] = *b"node of the test";

pub(crate) fn now() -> Duration {
    Duration::from_secs(NOW)
}

/// The authority of node and clients, older than what it signed that has expired.
pub(crate) static AUTHORITY: LazyLock<CertificateAuthority> =
    LazyLock::new(|| CertificateAuthority::create(UnixSeconds(NOW - 60 * 86_400)).unwrap());
/// One that nobody believes.
pub(crate) static OTHER: LazyLock<CertificateAuthority> =
    LazyLock::new(|| CertificateAuthority::create(UnixSeconds(NOW)).unwrap());

/// A certificate of `by` and its key, by one who believes `believed`; and its fingerprint.
pub(crate) fn credentials(
    by: &CertificateAuthority,
    role: Role,
    believed: &CertificateAuthority,
    issued: u64,
) -> (Credentials, [u8; 32]) {
    let key = IdentityKey::generate().unwrap();
    let leaf: Certificate = by.issue(role, key.public_key(), UnixSeconds(issued), 30).unwrap();
    let authority = believed.certificate();
    let credentials = Credentials {
        authorities: vec![TrustedAuthority {
            certificate: authority.der().to_vec(),
            not_after: Duration::from_secs(authority.validity().not_after.0),
        }],
        chain: vec![leaf.der().to_vec()],
        key: PrivateKey::copy_of(key.pkcs8().expose()).unwrap(),
    };
    (credentials, leaf.fingerprint().0)
}

/// An identity, and its fingerprint.
pub(crate) fn client(
    (credentials, fingerprint): (Credentials, [u8; 32]),
    transits: &[Transit],
) -> (ClientIdentity, [u8; 32]) {
    let settings = Arc::new(ClientSettings::new(credentials, transits, now).unwrap());
    (ClientIdentity { settings, node: Some(NODE) }, fingerprint)
}

/// Lists whom it lets in, and notes what it was asked and told.
#[derive(Debug)]
pub(crate) struct ListGate {
    pub(crate) settings: Mutex<Option<Arc<ServerSettings>>>,
    /// By fingerprint: in, or why not.
    pub(crate) listed: Mutex<Vec<([u8; 32], Option<Refusal>)>>,
    pub(crate) asked: Mutex<Vec<(Applicant, IpAddr)>>,
    pub(crate) told: Mutex<Vec<RefusedConnection>>,
}

impl ListGate {
    pub(crate) fn new(transit: Transit) -> Arc<Self> {
        let (node, _) = credentials(&AUTHORITY, Role::Node, &AUTHORITY, NOW);
        let settings = Arc::new(ServerSettings::new(node, NODE, transit, now).unwrap());
        Arc::new(Self {
            settings: Mutex::new(Some(settings)),
            listed: Mutex::default(),
            asked: Mutex::default(),
            told: Mutex::default(),
        })
    }

    /// Makes an identity and lists it.
    pub(crate) fn new_client(&self, transits: &[Transit]) -> ClientIdentity {
        let (identity, fingerprint) =
            client(credentials(&AUTHORITY, Role::Client, &AUTHORITY, NOW), transits);
        self.listed.lock().unwrap().push((fingerprint, None));
        identity
    }
}

impl Gate for ListGate {
    fn settings(&self) -> Option<Arc<ServerSettings>> {
        self.settings.lock().unwrap().clone()
    }

    fn admit(&self, applicant: &Applicant, address: IpAddr) -> Result<Peer, Refusal> {
        self.asked.lock().unwrap().push((*applicant, address));
        let listed = self.listed.lock().unwrap();
        match listed.iter().find(|(fingerprint, _)| *fingerprint == applicant.certificate) {
            None => Err(Refusal::Unknown),
            Some((_, Some(refusal))) => Err(*refusal),
            Some((_, None)) => {
                Ok(Peer { label: format!("identity at {address}"), principal: Principal::Owner })
            }
        }
    }

    fn on_refused(&self, refused: &RefusedConnection) {
        self.told.lock().unwrap().push(refused.clone());
    }
}
