//! Reading a node from outside: its Prometheus page and its process statistics.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

/// Fetches the metrics page.
///
/// # Errors
/// When the endpoint does not answer with success within five seconds.
pub fn fetch(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).context("connecting to the metrics endpoint")?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1.1 200") {
        bail!("metrics endpoint: {}", answer.lines().next().unwrap_or("no answer"));
    }
    Ok(answer)
}

/// The sum over all label sets of the metric `name`; `None` when the page does not have it.
#[must_use]
pub fn sum_of(page: &str, name: &str) -> Option<f64> {
    let values = page.lines().filter_map(|entry| {
        let (series, value) = entry.rsplit_once(' ')?;
        let of_name = series.split('{').next() == Some(name);
        if of_name { value.parse::<f64>().ok() } else { None }
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

/// Every series of the metric `name` that has exactly the label `label`: the label's value, and the series'.
#[must_use]
pub fn by_label(page: &str, name: &str, label: &str) -> Vec<(String, f64)> {
    let begin = format!("{name}{{{label}=\"");
    let series = |entry: &str| {
        let (value, number) = entry.strip_prefix(&begin)?.split_once("\"} ")?;
        Some((value.to_owned(), number.parse().ok()?))
    };
    page.lines().filter_map(series).collect()
}

/// Resident memory of a process, in bytes.
///
/// # Errors
/// When the process does not exist.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let entry = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = entry.and_then(|text| text.split_whitespace().next());
    Ok(kibibytes.context("VmRSS is absent")?.parse::<u64>()? << 10)
}

/// Processor time a process used so far (user and system), in clock ticks of 10 ms.
///
/// # Errors
/// When the process does not exist.
pub fn processor_ticks(pid: u32) -> anyhow::Result<u64> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces; what follows it starts with field 3, and utime is field 14.
    let fields: Vec<&str> =
        line.rsplit_once(')').context("no name in stat")?.1.split_whitespace().collect();
    let field =
        |index: usize| fields.get(index).context("short stat")?.parse::<u64>().context("stat");
    Ok(field(11)? + field(12)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_over_longer_names() {
        let page = "# TYPE x counter\nx{a=\"1\"} 2\nx{a=\"2\"} 3\nx_total 7\n";
        assert_eq!(sum_of(page, "x"), Some(5.0));
        assert_eq!(sum_of(page, "y"), None);
        let by_label = by_label(page, "x", "a");
        assert_eq!(by_label, [("1".to_owned(), 2.0), ("2".to_owned(), 3.0)]);
    }

    #[test]
    fn this_process_has_memory_and_processor_time() {
        assert!(resident_bytes(std::process::id()).unwrap() > 100_000);
        assert!(processor_ticks(std::process::id()).is_ok());
        assert!(resident_bytes(u32::MAX).is_err());
    }
}
