//! Tables on standard output: columns as wide as their widest cell.

use std::fmt::Write as _;

/// `rows`, the head first, as lines; what is in the columns of `numbers` stands to the right. Cells hold no line ends.
pub(super) fn columns<const N: usize>(rows: &[[String; N]], numbers: &[usize]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut lines = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = match numbers.contains(&column) {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:width$}  "),
            };
        }
        lines.push_str(line.trim_end());
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns begin below one another, numbers end so, and nothing trails.
    #[test]
    fn cells_stand_below_one_another() {
        let rows = [["NAME", "MS", "PATH"], ["é", "1000", "/"], ["angry", "1", "-"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows, &[1]), "NAME     MS  PATH\né      1000  /\nangry     1  -\n");
    }
}
