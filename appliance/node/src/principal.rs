//! Who is at the other end of a connection, in the words of the replicated state.
//!
//! Transports know what the kernel told them (`sheen_ports::Principal`); sessions belong to principals of the state. The one place
//! where the first becomes the second.

use sheen_meta::SessionPrincipal;
use sheen_ports::Principal;

/// Returns whose a session is that comes over a connection of `principal`.
pub(crate) const fn of_connection(principal: Principal) -> SessionPrincipal {
    match principal {
        Principal::Owner => SessionPrincipal::Owner,
        Principal::User { uid } => SessionPrincipal::User { uid },
    }
}
