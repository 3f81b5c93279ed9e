//! What was measured, and the table of it.

use std::fmt::Write;

/// What a row is held against. More is better where `must` is less than `moonshot`.
#[derive(Clone, Copy)]
pub struct Goal {
    pub must: f64,
    pub moonshot: f64,
}

const MISSED: &str = "**missed**";

/// One row. Its columns are those who were measured; the first one is the gateway.
struct Row {
    title: String,
    unit: Unit,
    goal: Option<Goal>,
    columns: Vec<Column>,
}

struct Column {
    name: &'static str,
    /// One for each round.
    values: Vec<f64>,
}

/// How a row's values are written, and what of it the goal is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A value; the goal is for the gateway's divided by the second column's.
    Ratio(&'static str),
    /// A value that is itself held against the goal.
    Value(&'static str),
}

/// All rows, in the order in which they were first measured.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// One more value. The first one of a column makes it.
    pub fn add(&mut self, title: &str, unit: Unit, goal: Option<Goal>, column: &'static str, value: f64) {
        let at = self.rows.iter().position(|row| row.title == title).unwrap_or_else(|| {
            self.rows.push(Row { title: title.into(), unit, goal, columns: Vec::new() });
            self.rows.len() - 1
        });
        let columns = &mut self.rows[at].columns;
        match columns.iter_mut().find(|c| c.name == column) {
            Some(column) => column.values.push(value),
            None => columns.push(Column { name: column, values: vec![value] }),
        }
    }

    /// Whether there is such a row, and it is not as it must be.
    pub fn misses(&self, title: &str) -> bool {
        self.rows.iter().any(|row| row.title == title && row.judge().2 == MISSED)
    }

    /// In Markdown, with the medians of all rounds.
    pub fn print(&self) -> String {
        let mut text = String::from(
            "| measure | imapmove | beside it | result | spread | must | moonshot | |\n|---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.print());
        }
        text
    }
}

impl Row {
    fn print(&self) -> String {
        let own = self.columns.first().map(|column| self.show(median(&column.values)));
        let others = self.columns.iter().skip(1);
        let others: Vec<String> =
            others.map(|c| format!("{} {}", c.name, self.show(median(&c.values)))).collect();
        let (result, spread, verdict) = self.judge();
        let goal = |of: fn(Goal) -> f64| self.goal.map(|goal| self.show_result(of(goal))).unwrap_or_default();
        format!(
            "| {} | {} | {} | {result} | {spread} | {} | {} | {verdict} |",
            self.title,
            own.unwrap_or_else(|| "n/a".into()),
            others.join(", "),
            goal(|g| g.must),
            goal(|g| g.moonshot),
        )
    }

    /// What the goal is for, of each round.
    fn results(&self) -> Vec<f64> {
        let of = |at: usize| self.columns.get(at).map_or(&[][..], |column| &column.values[..]);
        match self.unit {
            Unit::Value(_) => of(0).to_vec(),
            Unit::Ratio(_) => of(0).iter().zip(of(1)).map(|(own, other)| own / other).collect(),
        }
    }

    fn judge(&self) -> (String, String, &'static str) {
        let results = self.results();
        if results.is_empty() {
            return ("n/a".into(), String::new(), if self.goal.is_some() { "not measured" } else { "" });
        }
        let result = median(&results);
        let least = results.iter().copied().fold(f64::INFINITY, f64::min);
        let most = results.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let verdict = self.goal.map_or("", |goal| goal.verdict(result));
        (
            self.show_result(result),
            format!("{} to {}", self.show_result(least), self.show_result(most)),
            verdict,
        )
    }

    fn show(&self, value: f64) -> String {
        let (Unit::Ratio(unit) | Unit::Value(unit)) = self.unit;
        format!("{}{unit}", number(value))
    }

    fn show_result(&self, value: f64) -> String {
        match self.unit {
            Unit::Ratio(_) => format!("{value:.2}"),
            Unit::Value(_) => self.show(value),
        }
    }
}

impl Goal {
    fn verdict(self, result: f64) -> &'static str {
        let reaches = |goal: f64| {
            if self.moonshot > self.must { result >= goal } else { result <= goal }
        };
        match (reaches(self.must), reaches(self.moonshot)) {
            (true, true) => "moonshot",
            (true, false) => "met",
            _ => MISSED,
        }
    }
}

/// Three digits, or whole.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        ..0.995 => format!("{value:.2}"),
        ..99.95 => format!("{}", (value * 10.0).round() / 10.0),
        _ => thousands(value.round() as i64),
    }
}

fn thousands(value: i64) -> String {
    match value.abs() {
        ..1_000 => value.to_string(),
        _ => format!("{},{:03}", thousands(value / 1_000), value.abs() % 1_000),
    }
}

/// Of values of which there is one at least.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    (low + high) / 2.0
}
