//! Identities of remote clients: made, changed, revoked, forgotten.

use sheen_types::{Errno, Timespec};

use crate::{
    Reply,
    identity::{
        CertificateName, ForgetIdentity, IDENTITIES_MAX, Mapping, PutIdentity, RevokeIdentity,
        SessionPrincipal, SessionRights,
    },
    snapshot::size,
    state::{Change, State, identity::Identity},
};

impl State {
    /// Makes an identity, or replaces what it may do and its certificates. If that takes something away, its sessions end.
    pub(super) fn put_identity(
        &mut self,
        body: &PutIdentity,
        change: &mut Change,
    ) -> Result<Reply, Errno> {
        body.check()?;
        self.check_free(body)?;
        if body.number == 0 {
            self.make_identity(body, change)
        } else {
            self.set_identity(body, change)
        }
    }

    /// Certificates are of one identity at most.
    fn check_free(&self, body: &PutIdentity) -> Result<(), Errno> {
        let taken = |certificate: &CertificateName| {
            let owner = self.identities.certificates.get(&certificate.fingerprint);
            owner.is_some_and(|&owner| owner != body.number)
        };
        if body.certificates.0.iter().any(taken) { Err(Errno::EEXIST) } else { Ok(()) }
    }

    /// A name that was revoked is free again.
    fn make_identity(&mut self, body: &PutIdentity, change: &Change) -> Result<Reply, Errno> {
        let namesake = self.identities.named(&body.name);
        if namesake.is_some_and(|(_, identity)| !identity.is_revoked()) {
            return Err(Errno::EEXIST);
        }
        let namesake = namesake.map(|(number, _)| number);
        self.check_filesystems(&body.rights.filesystems.0, None)?;
        let last = self.identities.last;
        if self.identities.living_count() >= IDENTITIES_MAX || last == u32::MAX {
            return Err(Errno::ENOSPC);
        }
        if let Some(namesake) = namesake {
            self.take_identity(namesake);
        }
        self.identities.last = last + 1;
        let identity = Identity {
            name: body.name.as_slice().into(),
            created: change.now,
            revoked: Timespec::ZERO,
            rights: body.rights.clone(),
            certificates: body.certificates.0.clone(),
        };
        self.add_identity(last + 1, identity);
        Ok(Reply::Done)
    }

    fn set_identity(&mut self, body: &PutIdentity, change: &mut Change) -> Result<Reply, Errno> {
        let before = self.identities.living(body.number).ok_or(Errno::ENOENT)?;
        if *before.name != *body.name {
            return Err(Errno::EINVAL);
        }
        self.check_filesystems(&body.rights.filesystems.0, Some(&before.rights))?;
        let now = u64::try_from(change.now.seconds).unwrap_or(0);
        // One that was over had no sessions to lose; one whose end is put into the past is over too.
        let counts = |certificate: &&CertificateName| certificate.not_after >= now;
        let lost = |certificate: &CertificateName| {
            let mut kept = body.certificates.0.iter().filter(counts);
            counts(&certificate) && !kept.any(|it| it.fingerprint == certificate.fingerprint)
        };
        let narrows = body.rights.narrows(&before.rights) || before.certificates.iter().any(lost);
        let created = before.created;
        let Some(Identity { name, revoked, .. }) = self.take_identity(body.number) else {
            return Err(Errno::ENOENT);
        };
        let (rights, certificates) = (body.rights.clone(), body.certificates.0.clone());
        let identity = Identity { name, created, revoked, rights, certificates };
        self.add_identity(body.number, identity);
        if narrows {
            self.end_sessions_of(body.number, change);
        }
        Ok(Reply::Done)
    }

    /// Takes its certificates and sessions from an identity; its name is kept to be shown.
    pub(super) fn revoke_identity(
        &mut self,
        body: &RevokeIdentity,
        change: &mut Change,
    ) -> Result<Reply, Errno> {
        let (number, found) = self.identities.named(&body.name).ok_or(Errno::ENOENT)?;
        if found.is_revoked() {
            return Ok(Reply::Done);
        }
        let Some(mut identity) = self.take_identity(number) else { return Err(Errno::ENOENT) };
        identity.certificates.clear();
        // A clock at the start of 1970 would say that nothing happened.
        identity.revoked = change.now.max(Timespec { seconds: 1, nanoseconds: 0 });
        self.add_identity(number, identity);
        self.end_sessions_of(number, change);
        if let Some(oldest) = self.identities.revoked_too_long_ago() {
            self.take_identity(oldest);
        }
        Ok(Reply::Done)
    }

    /// Takes an identity away, whether it was revoked or not.
    pub(super) fn forget_identity(
        &mut self,
        body: &ForgetIdentity,
        change: &mut Change,
    ) -> Result<Reply, Errno> {
        let (number, _) = self.identities.named(&body.name).ok_or(Errno::ENOENT)?;
        self.take_identity(number);
        self.end_sessions_of(number, change);
        Ok(Reply::Done)
    }

    fn end_sessions_of(&mut self, number: u32, change: &mut Change) {
        let of_it = self.sessions.iter().filter(|(_, it)| it.principal.identity() == Some(number));
        let clients: Vec<_> = of_it.map(|(&client, _)| client).collect();
        for client in clients {
            self.end_session(client, change);
        }
        change.effects.push(crate::Effect::IdentityEnded { number });
    }

    fn add_identity(&mut self, number: u32, identity: Identity) {
        self.size.others += size::identity_bytes(&identity);
        assert!(
            self.identities.insert(number, identity),
            "identity {number} was checked to be free"
        );
    }

    fn take_identity(&mut self, number: u32) -> Option<Identity> {
        let identity = self.identities.remove(number)?;
        self.size.others -= size::identity_bytes(&identity);
        Some(identity)
    }

    /// What a principal is told of a file system that is not there. One whose file systems are listed is told the same as of one
    /// that is not its to use: it learns of no other's name.
    pub(super) fn no_filesystem(&self, principal: SessionPrincipal) -> Errno {
        let every =
            |number| self.identities.living(number).is_some_and(|it| it.rights.every_filesystem);
        if principal.identity().is_none_or(every) { Errno::ENOENT } else { Errno::EACCES }
    }

    /// What a session of this principal on this file system may do.
    ///
    /// # Errors
    /// `EACCES`: the file system is not its to use, or it is revoked; `EUSERS`: it has as many sessions as it may.
    pub(super) fn session_rights(
        &self,
        principal: SessionPrincipal,
        filesystem: u32,
    ) -> Result<SessionRights, Errno> {
        let number = match principal {
            SessionPrincipal::Owner => return Ok(SessionRights::TRUSTED),
            SessionPrincipal::User { .. } if filesystem == 0 => return Err(Errno::EACCES),
            SessionPrincipal::User { .. } => {
                return Ok(SessionRights { read_only: false, checked: true });
            }
            SessionPrincipal::Identity { number } | SessionPrincipal::ExemptIdentity { number } => {
                number
            }
        };
        let identity = self.identities.living(number).ok_or(Errno::EACCES)?;
        if filesystem == 0 || !identity.rights.may_use(filesystem) {
            return Err(Errno::EACCES);
        }
        if self.sessions_of_identity(number) >= u32::from(identity.rights.sessions_max) {
            return Err(Errno::EUSERS);
        }
        let exempt = principal == SessionPrincipal::ExemptIdentity { number };
        let checked = !exempt && identity.rights.mapping != Mapping::Trusted;
        Ok(SessionRights { read_only: identity.rights.read_only, checked })
    }
}
