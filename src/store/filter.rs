//! Which requests are asked for, and in which order.

use std::time::Duration;

use rusqlite::types::Value;

use super::row;
use crate::model::RequestStatus;

/// Most requests of a list, whatever is asked for: some 100 MB.
pub const MAX_LIMIT: usize = 100_000;

/// In which order requests are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Those that began last come first.
    #[default]
    Newest,
    /// Those that took longest come first.
    Slowest,
}

/// Which requests are asked for: those that fit all that is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Began then or later, Unix time.
    pub since_unix_ns: Option<u64>,
    /// Began before then, Unix time.
    pub until_unix_ns: Option<u64>,
    /// Of this user, exactly.
    pub user: Option<String>,
    /// A pattern for [`Request::subject`](crate::model::Request::subject): `*` any text, `?` any character, `[ab]`
    /// one of them.
    pub method: Option<String>,
    /// Ended so.
    pub status: Option<RequestStatus>,
    /// Took as long at least.
    pub min_duration: Option<Duration>,
    /// Answered by a process of this name, exactly.
    pub process: Option<String>,
    /// Kept by this policy.
    pub policy: Option<String>,
    /// At most so many, and at most [`MAX_LIMIT`].
    pub limit: usize,
    /// In this order.
    pub order: Order,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            since_unix_ns: None,
            until_unix_ns: None,
            user: None,
            method: None,
            status: None,
            min_duration: None,
            process: None,
            policy: None,
            limit: 20,
            order: Order::Newest,
        }
    }
}

impl Filter {
    /// The pattern that `text` alone fits.
    pub fn exactly(text: &str) -> String {
        text.chars().fold(String::new(), |mut pattern, c| {
            match c {
                '*' | '?' | '[' => pattern.extend(['[', c, ']']),
                _ => pattern.push(c),
            }
            pattern
        })
    }

    /// The query of one day for at most `limit` of them, and what it compares with.
    pub(super) fn query(&self, limit: usize) -> (String, Vec<Value>) {
        let time = |time_ns: u64| Value::Integer(row::signed(time_ns));
        let min_duration = self.min_duration.map(|least| u64::try_from(least.as_nanos()).unwrap_or(u64::MAX));
        let text = |text: &Option<String>| text.clone().map(Value::Text);
        let is_pattern = |pattern: &String| pattern.contains(['*', '?', '[']);
        let method = if self.method.as_ref().is_some_and(is_pattern) { "method GLOB" } else { "method =" };
        let conditions = [
            ("began_unix_ns >=", self.since_unix_ns.map(time)),
            ("began_unix_ns <", self.until_unix_ns.map(time)),
            ("user =", text(&self.user)),
            (method, text(&self.method)),
            ("status =", self.status.map(|status| Value::Integer(row::status_number(status)))),
            ("duration_ns >=", min_duration.map(time)),
            ("process =", text(&self.process)),
            ("policy =", text(&self.policy)),
        ];
        // Inside, what is chosen by one column is read from its index alone, however many requests that are.
        let columns = row::COLUMNS;
        let mut query = format!("SELECT {columns} FROM request WHERE id IN (SELECT id FROM request");
        let mut values = Vec::new();
        for (condition, value) in conditions.into_iter().filter_map(|(text, value)| Some((text, value?))) {
            query.push_str(if values.is_empty() { " WHERE " } else { " AND " });
            query.push_str(condition);
            query.push_str(" ?");
            values.push(value);
        }
        let order = match self.order {
            Order::Newest => "ORDER BY began_unix_ns DESC",
            Order::Slowest => "ORDER BY duration_ns DESC",
        };
        query.push_str(&format!(" {order} LIMIT ?) {order}"));
        values.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        (query, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is typed is never part of the query, and only patterns are matched as such.
    #[test]
    fn queries_compare_with_values() {
        let (query, values) = Filter::default().query(3);
        assert!(query.ends_with(
            "(SELECT id FROM request ORDER BY began_unix_ns DESC LIMIT ?) ORDER BY began_unix_ns DESC"
        ));
        assert_eq!(values, [Value::Integer(3)]);
        let filter = Filter {
            user: Some("' OR 1".to_owned()),
            method: Some("a*".to_owned()),
            order: Order::Slowest,
            ..Filter::default()
        };
        let (query, values) = filter.query(1);
        assert!(
            query.contains("WHERE user = ? AND method GLOB ? ORDER BY duration_ns DESC LIMIT ?)"),
            "{query}"
        );
        assert_eq!(values[0], Value::Text("' OR 1".to_owned()));
        let exact = Filter { method: Some("a".to_owned()), ..Filter::default() };
        assert!(exact.query(1).0.contains("method = ?"));
        assert_eq!(Filter::exactly("a[*]?"), "a[[][*][]][?]".replace("[]]", "]"));
    }
}
