//! Whole outputs as they should be, in `tests/golden`.

use std::fs;
use std::path::PathBuf;

/// Compares with `tests/golden/NAME`; `TXPROF_BLESS=1` accepts what is.
pub fn golden(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("TXPROF_BLESS").is_some() {
        fs::write(&path, actual).expect("tests/golden can be written");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if expected == actual {
        return;
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    for number in 0..old.len().max(new.len()) {
        if old.get(number) != new.get(number) {
            let line = |lines: &[&str]| lines.get(number).unwrap_or(&"(end)").to_string();
            println!("line {}:\n- {}\n+ {}", number + 1, line(&old), line(&new));
        }
    }
    panic!(
        "`tests/golden/{name}` differs; if the change is meant: TXPROF_BLESS=1 cargo test --test 'output_*'"
    );
}

/// Compares a flamegraph whole but for inferno's script, which is its own business. With
/// `TXPROF_KEEP_SVG` set to a folder, the picture is left there to be looked at.
pub fn golden_picture(name: &str, picture: &str) {
    let (head, rest) = picture.split_once("<style").expect("pictures have a style");
    let (_, body) = rest.split_once("</script>").expect("pictures have a script");
    let lines = format!("{head}\n{body}").replace("<g>", "\n<g>").replace("<text", "\n<text");
    if let Some(folder) = std::env::var_os("TXPROF_KEEP_SVG") {
        fs::write(PathBuf::from(folder).join(format!("{name}.svg")), picture)
            .expect("the folder can be written");
    }
    golden(&format!("{name}.svg.part"), &lines);
}
