// Runs before the first paint, so that a chosen theme never flashes the other one.
(function () {
  const chosen = localStorage.getItem("gatesvr.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
