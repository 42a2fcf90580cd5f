//! What tests ask of a profile in its JSON form.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The sum of the weights of samples whose stack has a function with `part` in its name, in a
/// profile in its JSON form. Every sample has the empty part.
pub fn weight_ns(profile: &Value, part: &str) -> f64 {
    let list = |value: &Value| value.as_array().expect("JSON form has this list").clone();
    let (frames, stacks) = (list(&profile["frames"]), list(&profile["stacks"]));
    let number = |value: &Value| value.as_u64().expect("JSON form has this index") as usize;
    let has = |stack: &Value| {
        let mut names =
            stack.as_array().into_iter().flatten().map(|frame| &frames[number(frame)]["function"]);
        part.is_empty() || names.any(|name| name.as_str().is_some_and(|name| name.contains(part)))
    };
    let weight = |sample: &Value| sample["weight_ns"].as_f64().expect("samples have a weight");
    let samples = list(&profile["samples"]);
    samples.iter().filter(|sample| has(&stacks[number(&sample["stack"])])).map(weight).sum()
}

/// The names of the processes that have samples.
pub fn processes(profile: &Value) -> BTreeSet<String> {
    let roots = profile["roots"].as_array().expect("JSON form has roots");
    roots.iter().map(|root| root["process"].as_str().expect("roots have a process").to_owned()).collect()
}

/// The part of the weight whose stacks reach the thread's start, and how many samples each other outcome has.
pub fn completeness(profile: &Value) -> (f64, BTreeMap<String, u64>) {
    let outcomes = profile["outcomes"].as_array().expect("JSON form has outcomes");
    let (mut complete_ns, mut reasons) = (0.0, BTreeMap::new());
    for sample in profile["samples"].as_array().expect("JSON form has samples") {
        let outcome = outcomes.iter().find(|outcome| outcome["number"] == sample["outcome"]);
        let outcome = outcome.expect("outcomes of samples are listed");
        if outcome["complete"] == true {
            complete_ns += sample["weight_ns"].as_f64().expect("samples have a weight");
        } else {
            *reasons.entry(outcome["text"].to_string()).or_default() += sample["count"].as_u64().unwrap_or(0);
        }
    }
    (complete_ns / weight_ns(profile, ""), reasons)
}
