// What the browser tells of the GPU, and what to say where it has none.

/** The adapter's facts, or {problem, advice} in the place of one. */
export async function findDevice() {
  if (!navigator.gpu) {
    const insecure = !isSecureContext;
    return {
      problem: insecure ? "This address is not secure, and browsers give no GPU to such pages." : "This browser has no WebGPU.",
      advice: insecure
        ? ["Open the page by https, or from localhost."]
        : [
            "Chrome and Edge have it since version 113, on Android since 121.",
            "Safari has it since version 26, Firefox since 141 on Windows and 145 on Macs with Apple silicon.",
            "In Chrome on Linux it may have to be switched on: chrome://flags/#enable-unsafe-webgpu.",
          ],
    };
  }
  let adapter = null;
  let why = "";
  try {
    adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  } catch (error) {
    why = ` It says: ${error.message}.`;
  }
  if (!adapter) {
    return {
      problem: `The browser has WebGPU, but offers no GPU.${why}`,
      advice: [
        "Look at chrome://gpu (about:support in Firefox): is hardware acceleration on, and WebGPU not disabled?",
        "The driver may be on the browser's blocklist: a newer one may help.",
      ],
    };
  }
  const { vendor = "", architecture = "", device = "", description = "" } = adapter.info ?? {};
  const fallback = adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter ?? false;
  const limits = {};
  for (const key in adapter.limits) {
    if (typeof adapter.limits[key] === "number") limits[key] = adapter.limits[key];
  }
  const name = description || [vendor, architecture, device].filter(Boolean).join(" ") || "A GPU that the browser does not name";
  return {
    name,
    vendor,
    architecture,
    device,
    description,
    fallback,
    features: [...adapter.features].sort(),
    wgsl_features: [...(navigator.gpu.wgslLanguageFeatures ?? [])].sort(),
    limits,
    browser: navigator.userAgent,
  };
}
