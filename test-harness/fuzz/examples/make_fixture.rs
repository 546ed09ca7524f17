//! Writes the fixture of the store's present version: once. A version that is there is never written again.

use std::{fs::File, io::Write, path::Path};

use anyhow::{Context, Result};
use sheen_fuzz::fixture::{VERSION, ZONE, encode, make};

fn main() -> Result<()> {
    let name = format!("store-{VERSION}.zone");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    let (disk, objects) = make();
    let bytes = encode(ZONE, &disk);
    let shown = path.display();
    let mut file = File::create_new(&path)
        .with_context(|| format!("{shown}: a fixture stays as the version's release wrote it"))?;
    file.write_all(&bytes)?;
    writeln!(std::io::stdout(), "{shown}: {} objects, {} bytes", objects.len(), bytes.len())?;
    Ok(())
}
