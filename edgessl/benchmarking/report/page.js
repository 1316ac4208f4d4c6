"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const fonts = getComputedStyle(document.body).fontFamily;
  const hiddenArms = new Set();
  const touch = matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true,
    displaylogo: false,
    // Named one by one: Plotly's own choice has a button that uploads the figure.
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
    plotlyServerURL: "",
    toImageButtonOptions: { format: "svg" },
  };

  const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // Figures name colours of the style sheet, so that both themes have their own.
  function themed(value, key) {
    if (Array.isArray(value)) return value.map((inner) => themed(inner, key));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, k)]));
    }
    const names = typeof value === "string" && key === "color" && value.startsWith("@");
    return names ? color(value.slice(1)) : value;
  }

  function axis(own) {
    const line = color("grid");
    return {
      gridcolor: line,
      linecolor: line,
      zerolinecolor: color("muted"),
      zeroline: false,
      zerolinewidth: 1,
      automargin: true,
      ...own,
      title: { standoff: 12, font: { size: 13, color: color("muted") }, ...own.title },
    };
  }

  function layout(own) {
    const themedOwn = themed(own);
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      showlegend: false,
      hovermode: "closest",
      dragmode: touch ? false : "zoom",
      ...themedOwn,
      margin: { l: 16, r: 24, t: 16, b: 16, ...themedOwn.margin },
      font: { family: fonts, size: 13, color: color("text") },
      hoverlabel: {
        align: "left",
        bgcolor: color("card"),
        bordercolor: color("muted"),
        font: { family: fonts, size: 13, color: color("text") },
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: color("muted"), activecolor: color("accent") },
      xaxis: axis(themedOwn.xaxis || {}),
      yaxis: axis(themedOwn.yaxis || {}),
    };
  }

  const armOf = (trace) => (trace.meta ? trace.meta.arm : undefined);

  function traces(figure) {
    return figure.data.map((trace) => ({
      ...themed(trace),
      visible: !hiddenArms.has(armOf(trace)),
    }));
  }

  function draw() {
    for (const [key, figure] of Object.entries(figures)) {
      Plotly.react(`chart-${key}`, traces(figure), layout(figure.layout), config);
    }
  }

  function colorSwatches() {
    for (const element of document.querySelectorAll(".arm, .swatch")) {
      element.style.setProperty("--arm", `var(--arm-${element.dataset.arm % 8})`);
    }
  }

  function toggle(button) {
    const arm = Number(button.dataset.arm);
    const show = hiddenArms.delete(arm);
    if (!show) hiddenArms.add(arm);
    button.setAttribute("aria-pressed", String(show));
    for (const figure of document.querySelectorAll(`figure[data-arm="${arm}"]`)) {
      figure.hidden = !show;
    }
    draw();
    if (show) window.dispatchEvent(new Event("resize"));
  }

  colorSwatches();
  const bar = document.getElementById("arms");
  bar.hidden = false;
  bar.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) toggle(button);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.addEventListener("beforeprint", () => {
    root.dataset.printing = "";
    draw();
  });
  window.addEventListener("afterprint", () => {
    delete root.dataset.printing;
    draw();
  });
  draw();
})();
