//! `sheen-store-path store|raw|device read|write REQUESTS`: the worker whose 4 KiB requests are counted.

#![forbid(unsafe_code)]

use std::io::Write as _;

use anyhow::{Result, bail};
use sheen_bench::store::path::Path;
use sheen_bench::store::peer::Operation;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [subject, operation, requests] = words.as_slice() else {
        bail!("usage: sheen-store-path store|raw|device read|write REQUESTS");
    };
    let (operation, requests) = (Operation::parse(operation)?, requests.parse()?);
    let mut path = Path::new(subject)?;
    path.warm_up(operation, requests)?;
    let mut result = Ok(());
    let seen =
        path.measure(operation, requests, |work| allocation_counter::measure(|| result = work()));
    result?;
    writeln!(std::io::stdout(), "allocations {}", seen.count_total)?;
    Ok(())
}
