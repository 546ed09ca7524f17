//! Ports of a node that `sheen up` looks after: free ones, unless others were asked for.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
};

use anyhow::{Context, Result};
use sheen_node::{Config, config::Addresses};

use super::place::Place;
use crate::{
    answer,
    arguments::Up,
    failure::{Failure, FailureKind},
    process,
};

/// Where a new node listens: as asked for, else at the usual ports, else at free ones.
///
/// # Errors
/// In use: an address that was asked for. The system's.
pub(super) fn choose(up: &Up) -> Result<Addresses> {
    let usual = Addresses::default();
    let listen = Held::new(up.listen, usual.listen)?;
    let metrics = Held::new(up.metrics, usual.metrics)?;
    for (what, held, usual) in
        [("clients", &listen, usual.listen), ("metrics", &metrics, usual.metrics)]
    {
        if held.is_other {
            tell(usual, what, held.address);
        }
    }
    Ok(Addresses { listen: listen.address, metrics: metrics.address })
}

fn tell(taken: SocketAddr, what: &str, address: SocketAddr) {
    answer::progress(&format!("{taken} is taken: {what} find the node at {address}"));
}

/// Replaces ports of this machine that another program took while the node was down, in the configuration's file. An address
/// that was asked for now, or that other machines know, stays: the node says what is wrong. None: none was replaced.
///
/// # Errors
/// When the file cannot be read or written.
pub(super) fn replace_taken(place: &Place, up: &Up, config: &Config) -> Result<Option<Config>> {
    let path = place.config();
    let mut text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut replaced = Vec::new();
    for (key, what, asked, address) in [
        ("listen", "clients", up.listen, config.listen),
        ("metrics", "metrics", up.metrics, config.metrics),
    ] {
        let line = format!("{key} = \"{address}\"");
        let is_ours = asked.is_none() && address.ip().is_loopback();
        if !is_ours || !is_taken(address) || text.matches(&line).count() != 1 {
            continue;
        }
        // Held until all are chosen, so that they differ.
        let held = Held::new(None, address)?;
        text = text.replace(&line, &format!("{key} = \"{}\"", held.address));
        tell(address, what, held.address);
        replaced.push(held);
    }
    if replaced.is_empty() {
        return Ok(None);
    }
    process::write_whole(&path, &text)?;
    Ok(Some(Config::load(&path)?))
}

fn is_taken(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

/// An address, held until all are chosen, so that they differ.
struct Held {
    address: SocketAddr,
    is_other: bool,
    _listener: TcpListener,
}

impl Held {
    fn new(given: Option<SocketAddr>, usual: SocketAddr) -> Result<Self> {
        if let Some(address) = given {
            // Asked for in vain it must not stand in a configuration.
            let listener = TcpListener::bind(address).map_err(|error| {
                let text = format!("cannot listen at {address}: {error}");
                Failure::new(FailureKind::InUse, text).hint("choose another address")
            })?;
            return Ok(Self { address, is_other: false, _listener: listener });
        }
        let (listener, is_other) = match TcpListener::bind(usual) {
            Ok(listener) => (listener, false),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                (TcpListener::bind((usual.ip(), 0)).context("looking for a free port")?, true)
            }
            Err(error) => return Err(error).with_context(|| format!("cannot listen at {usual}")),
        };
        let address = listener.local_addr()?;
        Ok(Self { address, is_other, _listener: listener })
    }
}

#[cfg(test)]
mod test {
    use sheen_types::Bytes;

    use super::*;

    fn up(listen: Option<&str>) -> Up {
        Up {
            mount: "./mnt".into(),
            dir: "./.sheen".into(),
            size: Some(Bytes(1 << 30)),
            name: "sheen".to_owned(),
            no_encryption: true,
            listen: listen.map(|address| address.parse().unwrap()),
            metrics: None,
        }
    }

    #[test]
    fn a_port_that_is_taken_makes_way_for_a_free_one_and_one_that_is_asked_for_does_not() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let usual = taken.local_addr().unwrap();
        let held = Held::new(None, usual).unwrap();
        assert!(held.is_other && held.address != usual && held.address.ip() == usual.ip());
        assert!(TcpListener::bind(held.address).is_err(), "it is held until both are chosen");
        assert!(Held::new(Some(usual), usual).is_err(), "asked for in vain");
        drop((taken, held));
        assert_eq!(Held::new(Some(usual), usual).unwrap().address, usual);
        let held = Held::new(None, usual).unwrap();
        assert_eq!((held.is_other, held.address), (false, usual));
        let chosen = choose(&up(Some("127.0.0.1:0"))).unwrap();
        assert_ne!(chosen.listen, chosen.metrics);
    }

    #[test]
    fn ports_that_were_taken_meanwhile_are_replaced_and_those_that_were_asked_for_stay() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { dir: folder.path().to_owned() };
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        let two = TcpListener::bind("127.0.0.1:0").unwrap();
        let (listen, metrics) = (one.local_addr().unwrap(), two.local_addr().unwrap());
        let text = Config::embedded_text(&place.dir, Bytes(1 << 30), Addresses { listen, metrics });
        std::fs::write(place.config(), &text).unwrap();
        let config = || Config::load(&place.config()).unwrap();
        let asked = Up { metrics: Some(metrics), ..up(Some(&listen.to_string())) };
        assert!(replace_taken(&place, &asked, &config()).unwrap().is_none(), "asked for");
        let now = replace_taken(&place, &up(None), &config()).unwrap().unwrap();
        assert!(now.listen != listen && now.metrics != metrics && now.listen != now.metrics);
        assert_eq!((config().listen, config().metrics), (now.listen, now.metrics));
        assert!(replace_taken(&place, &up(None), &config()).unwrap().is_none(), "they are free");
        let busy = TcpListener::bind(now.metrics).unwrap();
        let then = replace_taken(&place, &up(None), &config()).unwrap().unwrap();
        assert!(then.metrics != now.metrics && then.listen == now.listen);
        drop(busy);
    }
}
