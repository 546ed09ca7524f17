//! The cluster's authorities and secrets. Their content is sealed; what is decided here is which of them counts.

use sheen_types::Errno;

use crate::{
    Reply,
    identity::{
        CertificateAuthorityState, PutCertificateAuthority, PutClusterSecret, PutSessionSecret,
        SESSION_SECRETS_MAX,
    },
    snapshot::size,
    state::State,
};

impl State {
    /// Takes an authority in one of these steps; every other is `EINVAL`.
    ///
    /// | it is | and there is | then |
    /// |---|---|---|
    /// | generation 1, current, not crossed | none | it is the first |
    /// | the generation after the last, next, crossed | a current one, no next | the rotation began |
    /// | the next one, as current | | it is the current one; the one before retires, and who retired before goes |
    /// | one that is there, in its state | | its key is sealed anew |
    pub(super) fn put_authority(&mut self, body: &PutCertificateAuthority) -> Result<Reply, Errno> {
        body.check()?;
        if self.secrets.cluster.is_none() {
            return Err(Errno::EINVAL);
        }
        let before = self.size_of_secrets();
        self.step_authority(body)?;
        self.size.others = self.size.others - before + self.size_of_secrets();
        Ok(Reply::Done)
    }

    fn step_authority(&mut self, body: &PutCertificateAuthority) -> Result<(), Errno> {
        let authorities = &mut self.secrets.authorities;
        let last = authorities.last_key_value().map_or(0, |(&generation, _)| generation);
        let next = authorities.values().any(|it| it.state == CertificateAuthorityState::Next);
        let known = authorities.get(&body.generation);
        let Some(known) = known else {
            let good = match body.state {
                CertificateAuthorityState::Current => last == 0 && body.crossed.is_empty(),
                CertificateAuthorityState::Next => last > 0 && !next && !body.crossed.is_empty(),
                CertificateAuthorityState::Retired => false,
            };
            if !good || Some(body.generation) != last.checked_add(1) {
                return Err(Errno::EINVAL);
            }
            authorities.insert(body.generation, body.clone());
            return Ok(());
        };
        if known.certificate != body.certificate || known.crossed != body.crossed {
            return Err(Errno::EINVAL);
        }
        match (known.state, body.state) {
            (CertificateAuthorityState::Next, CertificateAuthorityState::Current) => {
                authorities.retain(|_, it| it.state != CertificateAuthorityState::Retired);
                for authority in authorities.values_mut() {
                    if authority.state == CertificateAuthorityState::Current {
                        authority.state = CertificateAuthorityState::Retired;
                        authority.sealed_key.clear();
                        authority.crossed.clear();
                    }
                }
            }
            (was, is) if was == is && is != CertificateAuthorityState::Retired => {}
            _ => return Err(Errno::EINVAL),
        }
        authorities.insert(body.generation, body.clone());
        Ok(())
    }

    /// Takes the cluster's first secret, or the present one wrapped anew. Another secret is taken while nothing is sealed under
    /// the present one; then it is `EBUSY`.
    pub(super) fn put_cluster_secret(&mut self, body: &PutClusterSecret) -> Result<Reply, Errno> {
        body.check()?;
        let present = self.secrets.cluster.as_ref().map_or(0, |secret| secret.generation);
        if body.generation != present {
            if Some(body.generation) != present.checked_add(1) {
                return Err(Errno::EINVAL);
            }
            if self.secrets.are_sealed() {
                return Err(Errno::EBUSY);
            }
        }
        let before = self.size_of_secrets();
        self.secrets.cluster = Some(body.clone());
        self.size.others = self.size.others - before + self.size_of_secrets();
        Ok(Reply::Done)
    }

    /// Takes the next secret of sessions, or one that is there sealed anew. The newest two are kept.
    pub(super) fn put_session_secret(&mut self, body: &PutSessionSecret) -> Result<Reply, Errno> {
        let secrets = &self.secrets.sessions;
        let last = secrets.last_key_value().map_or(0, |(&generation, _)| generation);
        let known = secrets.contains_key(&body.generation);
        if self.secrets.cluster.is_none() || !known && Some(body.generation) != last.checked_add(1)
        {
            return Err(Errno::EINVAL);
        }
        let before = self.size_of_secrets();
        self.secrets.sessions.insert(body.generation, body.clone());
        if self.secrets.sessions.len() > SESSION_SECRETS_MAX {
            self.secrets.sessions.pop_first();
        }
        self.size.others = self.size.others - before + self.size_of_secrets();
        Ok(Reply::Done)
    }

    fn size_of_secrets(&self) -> u64 {
        size::secrets_bytes(&self.secrets)
    }
}
