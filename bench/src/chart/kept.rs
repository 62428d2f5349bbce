//! Figures as JSON, so that one can be drawn anew without measuring again. JSON has no word for what is no number or
//! without end: it is `null` there, and is drawn as what has no end.

pub(super) mod points {
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

    pub(in crate::chart) fn serialize<S: Serializer>(all: &[(f64, f64)], out: S) -> Result<S::Ok, S::Error> {
        let finite = |&(when, value): &(f64, f64)| (when, value.is_finite().then_some(value));
        all.iter().map(finite).collect::<Vec<_>>().serialize(out)
    }

    pub(in crate::chart) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(f64, f64)>, D::Error> {
        let all = Vec::<(f64, Option<f64>)>::deserialize(from)?;
        Ok(all.into_iter().map(|(when, value)| (when, value.unwrap_or(f64::INFINITY))).collect())
    }
}

pub(super) mod groups {
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

    type Groups = Vec<(String, Vec<f64>)>;

    pub(in crate::chart) fn serialize<S: Serializer>(all: &Groups, out: S) -> Result<S::Ok, S::Error> {
        let finite = |value: &f64| value.is_finite().then_some(*value);
        let group = |(name, values): &(String, Vec<f64>)| {
            (name.clone(), values.iter().map(finite).collect::<Vec<_>>())
        };
        all.iter().map(group).collect::<Vec<_>>().serialize(out)
    }

    pub(in crate::chart) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Groups, D::Error> {
        let all = Vec::<(String, Vec<Option<f64>>)>::deserialize(from)?;
        let value = |value: Option<f64>| value.unwrap_or(f64::INFINITY);
        Ok(all.into_iter().map(|(name, values)| (name, values.into_iter().map(value).collect())).collect())
    }
}
