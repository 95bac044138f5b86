// Prometheus' text format: samples, and quantiles of histograms over the time between two reads.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;

/** Return `{name: value}` of samples, and `{name: [[bound, count], ...]}` of histograms. */
export function parseMetrics(text) {
  const values = {};
  const histograms = {};
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : LINE.exec(line);
    if (!found) continue;
    const [, name, labels, number] = found;
    const bound = /(?:^|,)le="([^"]+)"/.exec(labels ?? "");
    if (name.endsWith("_bucket") && bound) {
      const limit = bound[1] === "+Inf" ? Infinity : Number(bound[1]);
      (histograms[name.slice(0, -7)] ??= []).push([limit, Number(number)]);
    } else {
      values[name] = (values[name] ?? 0) + Number(number);
    }
  }
  return { values, histograms };
}

/** Return a histogram of what was observed since `before`; all of it without one. */
export function since(buckets, before) {
  const old = new Map(before ?? []);
  const changed = (buckets ?? []).map(([bound, count]) => [bound, count - (old.get(bound) ?? 0)]);
  return changed.some(([, count]) => count < 0) ? (buckets ?? []) : changed; // it has restarted
}

/** Return the estimate of a quantile, as Prometheus' `histogram_quantile`; null where it is empty. */
export function quantile(buckets, q) {
  const total = buckets.length ? buckets[buckets.length - 1][1] : 0;
  if (total <= 0) return null;
  const rank = q * total;
  let [lowBound, lowCount] = [0, 0];
  for (const [bound, count] of buckets) {
    if (count >= rank) {
      if (bound === Infinity || count === lowCount) return lowBound;
      return lowBound + ((bound - lowBound) * (rank - lowCount)) / (count - lowCount);
    }
    [lowBound, lowCount] = [bound, count];
  }
  return lowBound;
}
