//! Who is at the other end of a connection, in the words of the replicated state.
//!
//! Transports know what the kernel or the gate told them (`sheen_ports::Principal`); sessions belong to principals of the state. The one
//! place where the first becomes the second, and back.

use sheen_meta::SessionPrincipal;
use sheen_ports::Principal;

/// Returns whose a session is that comes over a connection of `principal`.
pub(crate) const fn of_connection(principal: Principal) -> SessionPrincipal {
    match principal {
        Principal::Owner => SessionPrincipal::Owner,
        Principal::User { uid } => SessionPrincipal::User { uid },
        Principal::Identity { number, exempt: false } => SessionPrincipal::Identity { number },
        Principal::Identity { number, exempt: true } => SessionPrincipal::ExemptIdentity { number },
    }
}

/// Returns who is at the other end of a connection whose sessions belong to `principal`.
pub(crate) const fn of_session(principal: SessionPrincipal) -> Principal {
    match principal {
        SessionPrincipal::Owner => Principal::Owner,
        SessionPrincipal::User { uid } => Principal::User { uid },
        SessionPrincipal::Identity { number } => Principal::Identity { number, exempt: false },
        SessionPrincipal::ExemptIdentity { number } => Principal::Identity { number, exempt: true },
    }
}
