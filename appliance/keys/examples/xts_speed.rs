//! How fast a zone's cipher is on one core: blocks of 4 KiB in cache, both directions, time on the CPU of each block.

use std::io::Write;

use sheen_keys::{DataKey, ZoneTag};
use sheen_types::{BLOCK_BYTES, Lba};

/// Blocks of each figure: 2 GiB.
const BLOCKS: u64 = 1 << 19;

/// Nanoseconds this process was on a CPU, which others on the machine do not add to.
fn on_cpu() -> Result<f64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let zone = ZoneTag { kind: 2, number: 0, identity: 1 };
    let mut cipher = DataKey::generate()?.zone_cipher(&[0; 16], zone)?;
    for blocks in [1, 256] {
        let mut data = vec![7; blocks * BLOCK_BYTES];
        for encrypts in [true, false] {
            let begun = on_cpu()?;
            for round in 0..BLOCKS / blocks as u64 {
                if encrypts {
                    cipher.encrypt(Lba(round), &mut data);
                } else {
                    cipher.decrypt(Lba(round), &mut data);
                }
            }
            let each = (on_cpu()? - begun) / BLOCKS as f64;
            let verb = if encrypts { "encrypt" } else { "decrypt" };
            writeln!(
                std::io::stdout(),
                "{verb} {blocks:>3} blocks at a time: {each:.0} ns a block, {:.1} GB/s",
                BLOCK_BYTES as f64 / each
            )?;
        }
    }
    Ok(())
}
