//! Tables that fit a width: first the columns that may shrink are cut, then the least important are left out.

use std::borrow::Cow;

use anstyle::Style;

use super::screen::Screen;
use super::text::{cells, cut, cut_middle, cut_start};

const GAP: usize = 2;

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub title: &'static str,
    /// Numbers are aligned to the right.
    pub right: bool,
    pub shrinks: Shrinks,
    /// Columns with the lowest value are left out first.
    pub matters: u8,
}

/// How a column shrinks.
#[derive(Debug, Clone, Copy)]
pub enum Shrinks {
    /// Shown in full or not at all.
    Never,
    /// The ends of its texts are cut, to this many cells at least.
    AtEnd(usize),
    /// The starts of its texts are cut, because the ends say more.
    AtStart(usize),
    /// The middles of its texts are cut.
    InMiddle(usize),
}

impl Shrinks {
    /// The least width for a text that is `width` wide.
    fn least(self, width: usize) -> usize {
        match self {
            Shrinks::Never => width,
            Shrinks::AtEnd(least) | Shrinks::AtStart(least) | Shrinks::InMiddle(least) => least.min(width),
        }
    }
}

/// One cell. Its text has been escaped before.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    pub text: String,
    pub style: Style,
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell { text, style: Style::new() }
    }
}

/// The table with its titles. An empty column is left out.
pub fn table(columns: &[Column], rows: &[Vec<Cell>], screen: Screen) -> String {
    let widest = |i: usize| rows.iter().map(|row| cells(&row[i].text)).max().unwrap_or(0);
    let shown: Vec<(usize, usize)> = (0..columns.len())
        .filter(|&i| widest(i) > 0)
        .map(|i| (i, widest(i).max(cells(columns[i].title))))
        .collect();
    let shown = fit(columns, shown, screen.width);

    let titles: Vec<Cell> =
        columns.iter().map(|c| Cell { text: c.title.to_owned(), style: Style::new().bold() }).collect();
    std::iter::once(&titles).chain(rows).map(|row| line(columns, &shown, row, screen)).collect()
}

/// Which columns are shown, and how wide.
fn fit(columns: &[Column], mut shown: Vec<(usize, usize)>, room: Option<usize>) -> Vec<(usize, usize)> {
    let Some(room) = room else { return shown };
    let least = |(i, width): (usize, usize)| columns[i].shrinks.least(width);
    let gaps = |shown: &[(usize, usize)]| GAP * shown.len().saturating_sub(1);

    while shown.len() > 1 && shown.iter().map(|&c| least(c)).sum::<usize>() + gaps(&shown) > room {
        let Some(at) = (0..shown.len()).min_by_key(|&at| columns[shown[at].0].matters) else { break };
        shown.remove(at);
    }
    let mut excess = (shown.iter().map(|c| c.1).sum::<usize>() + gaps(&shown)).saturating_sub(room);
    while excess > 0 {
        let widest = shown.iter_mut().filter(|c| c.1 > least(**c)).max_by_key(|c| c.1);
        let Some((_, width)) = widest else { break };
        *width -= 1;
        excess -= 1;
    }
    // A single column that is still too wide is cut anyway.
    if let [(_, width)] = shown.as_mut_slice() {
        *width = (*width).min(room.max(1));
    }
    shown
}

fn line(columns: &[Column], shown: &[(usize, usize)], row: &[Cell], screen: Screen) -> String {
    let mut line = String::new();
    for (nth, &(i, width)) in shown.iter().enumerate() {
        let text = match columns[i].shrinks {
            _ if screen.width.is_none() => Cow::Borrowed(row[i].text.as_str()),
            Shrinks::AtStart(_) => cut_start(&row[i].text, width),
            Shrinks::InMiddle(_) => cut_middle(&row[i].text, width),
            Shrinks::Never | Shrinks::AtEnd(_) => cut(&row[i].text, width),
        };
        let padding = " ".repeat(width - cells(&text).min(width));
        let painted = screen.paint(row[i].style, &text);
        let is_last = nth + 1 == shown.len();
        if columns[i].right {
            line.push_str(&padding);
            line.push_str(&painted);
        } else {
            line.push_str(&painted);
            if !is_last {
                line.push_str(&padding);
            }
        }
        if !is_last {
            line.push_str(&" ".repeat(GAP));
        }
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column { title: "ID", right: false, shrinks: Shrinks::Never, matters: 9 },
        Column { title: "KEY", right: false, shrinks: Shrinks::AtStart(4), matters: 5 },
        Column { title: "COST", right: true, shrinks: Shrinks::Never, matters: 1 },
    ];

    fn shown(width: Option<usize>) -> String {
        let row = |words: [&str; 3]| words.map(|w| Cell::from(w.to_owned())).to_vec();
        let rows = [row(["a1", "a-long-key", "$1"]), row(["b22", "k", "$10"])];
        table(&COLUMNS, &rows, Screen { width, colour: false })
    }

    #[test]
    fn without_a_width_nothing_is_cut() {
        assert_eq!(shown(None), "ID   KEY         COST\na1   a-long-key    $1\nb22  k            $10\n");
    }

    #[test]
    fn shrinkable_columns_are_cut_before_unimportant_ones_are_left_out() {
        assert_eq!(shown(Some(16)), "ID   KEY    COST\na1   …-key    $1\nb22  k       $10\n");
        assert_eq!(shown(Some(9)), "ID   KEY\na1   …key\nb22  k\n");
        assert_eq!(shown(Some(2)), "ID\na1\nb…\n");
    }

    #[test]
    fn no_line_is_wider_than_the_screen() {
        for width in 1..40 {
            assert!(shown(Some(width)).lines().all(|l| cells(l) <= width), "{width}");
        }
    }

    #[test]
    fn an_empty_column_is_left_out() {
        let row = vec![Cell::from("a".to_owned()), Cell::default(), Cell::from("$1".to_owned())];
        let text = table(&COLUMNS, &[row], Screen { width: None, colour: false });
        assert_eq!(text, "ID  COST\na     $1\n");
    }
}
