//! Figures beside their peers', their targets, and the table of them.

use serde::Serialize;

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let [first, .., last] = sorted[..] else {
            return Spread { min: sorted[0], median: sorted[0], max: sorted[0] };
        };
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Spread { min: first, median, max: last }
    }
}

/// One figure of bookend and one of its peer, measured one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    pub ours: f64,
    pub theirs: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    pub unit: &'static str,
    /// The median of all measurements.
    pub ours: f64,
    pub theirs: Option<f64>,
    /// Of the ratios, each the median of its round. Where there is no peer, of our own figure.
    pub spread: Spread,
}

impl Measured {
    /// `pairs` are in the order in which they were measured, and are cut into rounds.
    pub fn beside(unit: &'static str, pairs: &[Pair], rounds: usize) -> Measured {
        let median = |of: fn(&Pair) -> f64, pairs: &[Pair]| {
            Spread::of(&pairs.iter().map(of).collect::<Vec<_>>()).median
        };
        let ratios: Vec<f64> = pairs
            .chunks(pairs.len().div_ceil(rounds))
            .map(|round| median(|p| p.ours / p.theirs, round))
            .collect();
        Measured {
            unit,
            ours: median(|p| p.ours, pairs),
            theirs: Some(median(|p| p.theirs, pairs)),
            spread: Spread::of(&ratios),
        }
    }

    pub fn alone(unit: &'static str, values: &[f64]) -> Measured {
        let spread = Spread::of(values);
        Measured { unit, ours: spread.median, theirs: None, spread }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub what: String,
    /// The peer; empty where the figure stands alone.
    pub beside: String,
    /// The limit of the median: of the ratios, or of the figure where there is no peer.
    pub target: Option<f64>,
    pub measured: Option<Measured>,
    /// What is missing to measure it.
    pub needs: Option<String>,
    pub reached: Option<bool>,
}

impl Figure {
    pub fn new(what: &str, beside: &str, target: Option<f64>, measured: Measured) -> Figure {
        let median = measured.spread.median;
        let reached = target.map(|limit| median <= limit);
        let (what, beside) = (what.to_owned(), beside.to_owned());
        Figure { what, beside, target, measured: Some(measured), needs: None, reached }
    }

    pub fn not_measured(what: &str, beside: &str, target: Option<f64>, needs: &str) -> Figure {
        let (what, beside, needs) = (what.to_owned(), beside.to_owned(), Some(needs.to_owned()));
        Figure { what, beside, target, measured: None, needs, reached: None }
    }

    fn cells(&self) -> [String; 8] {
        let target = self.target.map(|limit| format!("≤ {limit}")).unwrap_or_default();
        let reached = match self.reached {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let [ours, theirs, median, range] = match (&self.measured, &self.needs) {
            (Some(m), _) => {
                let s = m.spread;
                let (median, range) = match (m.theirs, s.min < s.max) {
                    (Some(_), true) => (format!("{:.2}", s.median), format!("{:.2} to {:.2}", s.min, s.max)),
                    (Some(_), false) => (format!("{:.2}", s.median), String::new()),
                    (None, true) => (String::new(), format!("{} to {}", short(s.min), short(s.max))),
                    (None, false) => Default::default(),
                };
                let with_unit = |value| format!("{} {}", short(value), m.unit);
                [with_unit(m.ours), m.theirs.map(with_unit).unwrap_or_default(), median, range]
            }
            (None, needs) => {
                let why = format!("not measured: needs {}", needs.as_deref().unwrap_or_default());
                [why, String::new(), String::new(), String::new()]
            }
        };
        [self.what.clone(), self.beside.clone(), ours, theirs, median, range, target, reached.to_owned()]
    }
}

/// Three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A Markdown table with aligned columns.
pub fn table(figures: &[Figure]) -> String {
    let head =
        ["what", "peer", "bookend", "its peer", "ratio", "of rounds", "target", "met"].map(str::to_owned);
    let rows: Vec<[String; 8]> = [head].into_iter().chain(figures.iter().map(Figure::cells)).collect();
    let widths: [usize; 8] =
        std::array::from_fn(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0).max(3));
    let line = |cells: &[String; 8]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!(" {cell:<width$} |"));
        format!("|{}\n", padded.collect::<String>())
    };
    let rule = widths.map(|w| "-".repeat(w));
    let mut text = line(&rows[0]) + &line(&rule);
    text.extend(rows[1..].iter().map(line));
    text
}
