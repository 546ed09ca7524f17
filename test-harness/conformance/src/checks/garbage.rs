//! Garbage on the node's listeners: the connection is closed and counted, memory does not grow, others are served.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::Context;
use crate::metrics;
use crate::random::Random;
use crate::target::Target;

const CHECK: &str = "garbage";
const CONNECTIONS: u64 = 300;
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// Growth of resident memory that is taken for chance.
const GROWTH_BYTES_MAX: u64 = 16 << 20;
/// The counter of refused connections and frames.
const COUNTER: &str = "sheen_connections_refused_total";

/// Runs the check. It needs a node; a directory has no listener to send garbage to.
pub fn run(context: &mut Context<'_>) {
    let Some((work, _)) = context.prepared(CHECK) else { return };
    let mut random = Random::new(context.seed);
    let target = &mut *context.target;
    let name = format!("{CONNECTIONS} connections are closed, memory stays, others are served");
    let mut counted = Err(anyhow::anyhow!("nothing was sent"));
    let sent = context.report.case(CHECK, &name, || {
        let Target::Cluster { cluster, .. } = target else {
            bail!("garbage needs a node; run it without --dir");
        };
        let pid = cluster.node_pid().context("no node runs")?;
        let (tcp, admin) = (cluster.tcp_address(), cluster.admin_address());
        // The first connections may make the node grow once; growth is measured from there.
        send_all(tcp, &mut random, 30, &work)?;
        let memory = metrics::resident_bytes(pid)?;
        let before = counter(admin);
        send_all(tcp, &mut random, CONNECTIONS, &work)?;
        cluster.assert_running()?;
        let grown = metrics::resident_bytes(pid)?.saturating_sub(memory);
        ensure!(grown <= GROWTH_BYTES_MAX, "resident memory grew by {} KiB", grown >> 10);
        counted = before.and_then(|before| Ok(counter(admin)? - before));
        Ok(format!("resident memory grew by {} KiB", grown >> 10))
    });
    if sent {
        context.report.case(CHECK, "they are counted", || {
            let more = counted?;
            ensure!(more >= 300.0, "only {more} of {CONNECTIONS} were counted");
            Ok(format!("{more} counted in {COUNTER}"))
        });
    }
    context.remove(CHECK, &work);
}

fn counter(admin: SocketAddr) -> anyhow::Result<f64> {
    let page = metrics::fetch(admin)?;
    metrics::sum_of(&page, COUNTER).with_context(|| format!("there is no metric {COUNTER}"))
}

fn send_all(tcp: SocketAddr, random: &mut Random, count: u64, work: &Path) -> anyhow::Result<()> {
    for number in 0..count {
        send_garbage(tcp, random)?;
        if number % 50 == 0 {
            let begin = Instant::now();
            std::fs::write(work.join("served"), random.bytes(9000))?;
            ensure!(begin.elapsed() < CLOSE_DEADLINE, "a write took {:?}", begin.elapsed());
        }
    }
    Ok(())
}

/// Sends up to 64 KiB of garbage and requires that the other side closes the connection.
fn send_garbage(address: SocketAddr, random: &mut Random) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(CLOSE_DEADLINE))?;
    stream.set_write_timeout(Some(CLOSE_DEADLINE))?;
    // At least a whole frame: fewer bytes may rightly be waited for.
    let bytes = 256 + random.index(64 << 10);
    // The other side may close after the first bytes, so that the rest cannot be sent.
    let _ = stream.write_all(&random.bytes(bytes));
    let begin = Instant::now();
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Ok(_) if begin.elapsed() < CLOSE_DEADLINE => {}
            Ok(_) => bail!("the node goes on answering garbage"),
            Err(error) => bail!("the connection is not closed: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_closing_server_passes_and_a_closed_port_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut first = [0; 64];
            stream.read_exact(&mut first).unwrap();
        });
        send_garbage(address, &mut Random::new(1)).unwrap();
        server.join().unwrap();
        assert!(send_garbage(address, &mut Random::new(1)).is_err());
    }
}
