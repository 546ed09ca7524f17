//! The promise that a node at rest costs next to nothing.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use sheen_dma::Arena;
use sheen_node::{Config, Force, Node, config::TcpClients, format};
use sheen_types::Bytes;

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let microseconds = (usage.user_time() + usage.system_time()).num_microseconds();
    Duration::from_micros(microseconds.try_into().unwrap())
}

#[test]
fn a_node_at_rest_takes_at_most_two_percent_of_a_core() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::embedded(directory.path(), Bytes(1 << 30));
    config.listen.set_port(0);
    config.tcp.clients = TcpClients::Anybody;
    config.threads.reactors = 2;
    format(&config, Force::No).unwrap();
    let node = Node::start(config).unwrap();
    // Idle connections of both kinds, to every service.
    let arena = Arena::shared(4 << 20).unwrap();
    let addresses = [format!("unix:{}", node.socket().display()), format!("tcp:{}", node.listen())];
    let connect =
        |service| addresses.each_ref().map(|at| sheen_rdma::connect(at, service, &arena).unwrap());
    let links = [0, 1, 2].map(connect);
    // The only way to see rest is to let time pass.
    std::thread::sleep(Duration::from_millis(200));
    let before = processor_time();
    std::thread::sleep(Duration::from_secs(2));
    let used = processor_time() - before;
    println!("{used:?} of processor time in 2 s; {:?}", node.status().threads);
    assert!(used < Duration::from_millis(40), "{used:?} in 2 s");
    links.iter().flatten().for_each(|link| link.close());
    node.stop().unwrap();
}
