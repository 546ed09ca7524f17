//! `sheen node`.

use std::{
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use sheen_control::{NodeOperator, NodePages};
use sheen_node::{
    Config,
    server::{NodeError, StartStep, identities, listen},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
};

use crate::{
    answer,
    arguments::Node,
    failure::{Failure, FailureKind},
    notify, process,
};

/// How often it is told what a start waits for; one that takes less time tells nothing.
const TELL: Duration = Duration::from_secs(1);
/// How often the node's threads are looked after.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked after certificates.
const TEND: Duration = Duration::from_secs(60);
/// Peers that asked for a page where clients connect, and wait to be answered.
const PAGES_WAITING_MAX: usize = 16;

/// Runs a node until it is told to stop.
///
/// # Errors
/// When the configuration is wrong or the node cannot start; the text names key and line, or the device.
pub(crate) fn run(json: bool, node: &Node) -> Result<()> {
    if node.example {
        answer::text(Config::EXAMPLE.trim_end());
        return Ok(());
    }
    let path = node.config.as_ref().context("--config FILE is needed")?;
    let config = Config::load(path)?;
    if node.check {
        let done = serde_json::json!({ "config": path, "valid": true });
        answer::either(json, &done, || format!("{} is a valid configuration", path.display()));
        return Ok(());
    }
    crate::log::to_standard_error();
    if node.report_ready {
        process::detach();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("starting the control runtime")?;
    runtime.block_on(serve(config, node.report_ready))
}

async fn serve(config: Config, report_ready: bool) -> Result<()> {
    // Taken before the node starts, so that a signal during the start is not lost.
    let mut stop = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let launch = move || {
        // First, so that the pages are there while the start lasts.
        let pages = listen::tcp("metrics", config.metrics, listen::PATIENCE)?;
        Ok::<_, NodeError>((pages, sheen_node::Node::launch(config, listen::PATIENCE)?))
    };
    let (pages, node) = tokio::task::spawn_blocking(launch).await??;
    let listener = sheen_control::listen(pages).context("taking over the metrics' address")?;
    let node = Arc::new(node);
    let pages = Arc::new(NodePages::new(node.clone()));
    let server = tokio::spawn(sheen_control::serve(listener, pages.clone()));
    let (sender, handed) = mpsc::channel(PAGES_WAITING_MAX);
    // A peer that finds no room is closed, as by any full server.
    node.serve_pages(Box::new(move |request| drop(sender.try_send(request))));
    let handed = tokio::spawn(sheen_control::serve_handed(handed, pages.clone()));
    // Before the start, so that its own user sees how far that is.
    let orders = Orders::serve(&node, pages)?;
    if !started(&node, &mut stop, report_ready).await? {
        orders.end().await;
        end_pages([server, handed]).await;
        return end(node).await;
    }
    if report_ready {
        answer::text(process::READY);
    }
    notify::ready();
    let failure = until_stopped(&node, &mut stop).await;
    notify::stopping();
    // Stopped by drop if a page is still being made from it; that is for milliseconds.
    orders.end().await;
    end_pages([server, handed]).await;
    end(node).await?;
    match failure {
        None => Ok(()),
        Some(reason) => Err(Failure::new(FailureKind::Failed, format!("the node ended: {reason}"))
            .hint("start it again: nothing acknowledged is lost")
            .into()),
    }
}

async fn end_pages(tasks: [JoinHandle<()>; 2]) {
    for task in tasks {
        task.abort();
        let _aborted = task.await;
    }
}

async fn end(node: Arc<sheen_node::Node>) -> Result<()> {
    let stop = move || Arc::try_unwrap(node).map_or(Ok(()), sheen_node::Node::stop);
    tokio::task::spawn_blocking(stop).await??;
    Ok(())
}

/// Waits until the node serves, and tells what it waits for: the log, the service manager, and `up` if that started us.
/// False: it was told to stop first.
async fn started(
    node: &Arc<sheen_node::Node>,
    stop: &mut [Signal; 2],
    report: bool,
) -> Result<bool> {
    let given_up = Arc::new(AtomicBool::new(false));
    let waiting = node.clone();
    let ends = given_up.clone();
    let mut told = (Instant::now(), String::new());
    let mut start = tokio::task::spawn_blocking(move || {
        waiting.await_start(|steps| {
            if told.0.elapsed() >= TELL {
                let text = start_text(steps);
                if text != told.1 {
                    tracing::info!("starting: {text}");
                    notify::status(&format!("starting: {text}"));
                    if report {
                        answer::text(&text);
                    }
                }
                told = (Instant::now(), text);
            }
            match ends.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })
    });
    let [terminate, interrupt] = stop;
    let mut stopped = false;
    loop {
        tokio::select! {
            result = &mut start => match result? {
                Ok(()) => return Ok(!stopped),
                Err(NodeError::Interrupted) => return Ok(false),
                Err(error) => return Err(error.into()),
            },
            _ = terminate.recv() => stopped = true,
            _ = interrupt.recv() => stopped = true,
        }
        given_up.store(stopped, Ordering::Relaxed);
    }
}

/// What a start waits for, on a line.
pub(crate) fn start_text(steps: &[StartStep]) -> String {
    steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The socket on which the node's own user gives it orders.
struct Orders {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Orders {
    fn serve(node: &Arc<sheen_node::Node>, pages: Arc<NodePages>) -> Result<Self> {
        let path = sheen_control::operator_socket(node.socket());
        let listener = sheen_control::operator::listen(&path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        let operator = Arc::new(NodeOperator::new(node.clone()));
        let serve = sheen_control::operator::serve(listener, path.clone(), operator, pages);
        let task = tokio::spawn(serve);
        Ok(Self { path, task })
    }

    async fn end(self) {
        self.task.abort();
        let _aborted = self.task.await;
        // Another one replaces it, should it not go.
        let _ = std::fs::remove_file(self.path);
    }
}

/// Waits for a signal, or for a thread to end that should not: why it did.
async fn until_stopped(node: &sheen_node::Node, stop: &mut [Signal; 2]) -> Option<String> {
    let [terminate, interrupt] = stop;
    let mut tended = Instant::now();
    loop {
        if tended.elapsed() >= TEND
            && let Some(identities) = node.identities().cloned()
        {
            tended = Instant::now();
            // May wait for the metadata service; nobody waits for it.
            tokio::task::spawn_blocking(move || identities.tend(identities::now()));
        }
        tokio::select! {
            _ = terminate.recv() => return None,
            _ = interrupt.recv() => return None,
            () = tokio::time::sleep(LOOK) => {
                if let Some(reason) = node.failure() {
                    return Some(reason);
                }
            }
        }
    }
}
