-- wrk asks for other definitions, hardware and sizes each time; TOKEN comes from the environment. With PACE_MS each
-- connection waits so long on average before each request, between nothing and twice that. ASK: always this path.
local hardware = { "NVIDIA%20H100", "NVIDIA%20H200", "NVIDIA%20B200", "NVIDIA%20GB200" }
local headers = { ["Authorization"] = "Bearer " .. os.getenv("TOKEN") }
local pace = tonumber(os.getenv("PACE_MS") or "0")
local ask = os.getenv("ASK") or ""

request = function()
  if ask ~= "" then return wrk.format("GET", ask) end
  local path = string.format("/api/v1/best-config?definition=synthetic_moe_%02d&axes=seq_len=%d&hardware=%s",
    math.random(1, 20), math.random(1, 8192), hardware[math.random(1, 4)])
  return wrk.format("GET", path, headers)
end

if pace > 0 then
  delay = function() return math.random(0, 2 * pace) end
end

done = function(summary, latency, requests)
  io.write(string.format('{"requests": %d, "duration_s": %.3f, "p50_ms": %.3f, "p90_ms": %.3f, "p99_ms": %.3f, ' ..
    '"max_ms": %.3f, "errors": %d}\n', summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout))
end
